import unittest
import warnings
from typing import List

import torch

import models
from bucketd import dtypes, torch_neuronx
from bucketd.errors import KernelError, TraceError
from bucketd.torch_neuronx import BucketModelConfig, PadKernel, input_dims, kernel_check


def script_kernel(source):
    """A kernel factory from the body of a TorchScript function of `inputs`."""
    lines = "\n".join("    " + line for line in source.strip().splitlines())
    unit = torch.jit.CompilationUnit(
        "def kernel(inputs: List[Tensor]) -> Tuple[List[Tensor], Tensor]:\n" + lines + "\n"
    )
    return lambda: unit.kernel


def checked(body, examples, **options):
    """Checks a kernel as tracing does, without building a module (source made here cannot be saved)."""
    examples = [(entry,) if isinstance(entry, torch.Tensor) else entry for entry in examples]
    shapes = [[list(tensor.shape) for tensor in example] for example in examples]
    names = [f"input_{i}" for i in range(len(examples[0]))]
    dims = input_dims.InputDims(shapes, names, [[] for _ in names], options.pop("min_sizes", {}))
    kernel_check.check(script_kernel(body)(), examples, dims, options.pop("may_change_values", False))


_GOOD = """
x = inputs[0]
size = 4
bucket = 0
if x.size(0) > 4:
    size = 8
    bucket = 1
if x.size(0) > 8:
    return torch.jit.annotate(List[Tensor], []), torch.tensor([0])
return [torch.constant_pad_nd(x, [0, size - x.size(0)], 0)], torch.tensor([bucket])
"""
_BUCKETS = [torch.arange(1.0, 5.0), torch.arange(1.0, 9.0)]


def guide_kernel(tensor_list: List[torch.Tensor]):
    x = tensor_list[0]
    length = x.shape[1]
    padded: List[torch.Tensor] = []
    bucket_idx = 0
    for idx, bucket in enumerate([8, 16]):
        if length <= bucket:
            bucket_idx = idx
            for tensor in tensor_list:
                padded.append(torch.cat([tensor, torch.zeros([1, bucket - length], dtype=x.dtype)], dim=1))
            break
    return padded, torch.tensor([bucket_idx])


class KernelCheck(unittest.TestCase):
    def test_accepts_a_good_kernel_down_to_an_empty_input(self):
        checked(_GOOD, _BUCKETS)
        checked(_GOOD, _BUCKETS, min_sizes={(0, 0): 0})

    def refuses(self, message, old, new, **options):
        self.assertIn(old, _GOOD)
        with self.assertRaisesRegex(KernelError, message):
            checked(_GOOD.replace(old, new), _BUCKETS, **options)

    def test_refuses_a_boundary_that_is_one_too_low(self):
        self.refuses(r"at the example inputs of bucket 0, of exactly its shapes", "x.size(0) > 4", "x.size(0) > 3")

    def test_refuses_a_boundary_that_is_one_too_high(self):
        self.refuses(r"dim 0 of input 'input_0' = 5.*does not hold every element", "x.size(0) > 4", "x.size(0) > 5")

    def test_refuses_one_wrong_length_in_the_middle(self):
        self.refuses(
            r"= 7: bucket 1 would fit, but the kernel fails: .*unlucky",
            "size = 4\n",
            "size = 4\nif x.size(0) == 7:\n    raise ValueError('unlucky')\n",
        )

    def test_refuses_a_wrong_index(self):
        self.refuses("chose bucket 2; there are 2", "bucket = 1", "bucket = 2")
        self.refuses("chose bucket -1", "bucket = 1", "bucket = -1")
        self.refuses("not one integer", "torch.tensor([bucket])", "torch.tensor([0, bucket])")
        self.refuses("not one integer", "torch.tensor([bucket])", "torch.tensor([1.0])")

    def test_refuses_a_wrong_shape(self):
        self.refuses(
            r"gave input 'input_0' as torch.float32 \[9\]; that bucket takes torch.float32 \[8\]",
            "    size = 8",
            "    size = 9",
        )

    def test_refuses_a_wrong_dtype(self):
        self.refuses(
            r"as torch.float64 \[4\]; that bucket takes torch.float32", "x = inputs[0]", "x = inputs[0].double()"
        )

    def test_refuses_a_missing_or_extra_tensor(self):
        self.refuses(
            "gave 2 tensors; the buckets take 1",
            "return [torch.constant_pad_nd(x, [0, size - x.size(0)], 0)]",
            "return [x, x]",
        )
        self.refuses("an empty list", "x.size(0) > 8:", "x.size(0) > 6:")

    def test_refuses_a_kernel_that_cuts_what_is_above_the_largest_bucket(self):
        body = _GOOD.replace(
            "x.size(0) > 8:\n    return torch.jit.annotate(List[Tensor], []), torch.tensor([0])",
            "x.size(0) > 8:\n    x = x.narrow(0, 0, 8)",
        )
        with self.assertRaisesRegex(KernelError, r"= 9: .*does not hold every element.*kernel_may_change_values"):
            checked(body, _BUCKETS)
        checked(body, _BUCKETS, may_change_values=True)

    def test_refuses_a_kernel_that_overwrites_an_element(self):
        with self.assertRaisesRegex(KernelError, "does not hold every element"):
            checked(_GOOD.replace("bucket = 1", "bucket = 1\n    if x.size(0) < 8:\n        x = x * 2"), _BUCKETS)

    def test_warns_about_a_kernel_that_wastes(self):
        with self.assertWarnsRegex(UserWarning, "chose bucket 1, although bucket 0 is smaller"):
            checked(_GOOD.replace("x.size(0) > 4", "x.size(0) != 4"), _BUCKETS)

    def test_accepts_a_choice_by_value_between_equal_shapes(self):
        checked("return inputs, inputs[0]", [torch.tensor([0]), torch.tensor([1])])

    def test_refuses_a_square_kernel_unless_its_sides_are_tied(self):
        examples = [(torch.ones(4, 4),), (torch.ones(8, 8),)]
        unit = script_kernel(
            """
x = inputs[0]
size = 8
if x.size(0) <= 4:
    size = 4
delta = size - x.size(0)
if delta < 0:
    return torch.jit.annotate(List[Tensor], []), torch.tensor([0])
return [torch.constant_pad_nd(x, [0, delta, 0, delta], 0)], torch.tensor([size // 8])
"""
        )()
        shapes = [[[4, 4]], [[8, 8]]]
        with self.assertRaisesRegex(
            KernelError, "for dim 0 of input 'x' = 1, dim 1 of input 'x' = 2: bucket 0 would fit"
        ):
            kernel_check.check(unit, examples, input_dims.InputDims(shapes, ["x"], [[]]), False)
        tied = input_dims.InputDims(shapes, ["x"], [[]], tied_dims=[[("x", 0), ("x", 1)]])
        kernel_check.check(unit, examples, tied, False)

    def test_samples_what_is_too_much_to_try_whole(self):
        sizes = range(1, 200)
        shapes = [[[size, size]] for size in sizes]
        dims = input_dims.InputDims(shapes, ["x"], [[]])
        probes = list(kernel_check._probes([(torch.ones(size, size),) for size in sizes], dims))
        self.assertLessEqual(len(probes), 4 * kernel_check.MAX_COMBINATIONS)
        self.assertEqual({size for probe in probes for size in probe}, set(range(1, 201)))


class ScriptKernel(unittest.TestCase):
    def test_that_does_not_return_a_script_function_is_refused(self):
        config = BucketModelConfig(lambda: guide_kernel)
        with self.assertRaisesRegex(TraceError, "returned a function, not a torch.jit.script function"):
            config.make_kernel()

    def test_of_wrong_types_is_refused(self):
        unit = torch.jit.CompilationUnit("def kernel(x: Tensor) -> Tensor:\n    return x\n")
        with self.assertRaisesRegex(TraceError, r"is \(Tensor\) -> Tensor, it has to be \(List\[Tensor\]\)"):
            BucketModelConfig(lambda: unit.kernel).make_kernel()

    def test_shows_its_graph(self):
        config = BucketModelConfig(lambda: torch.jit.script(guide_kernel))
        self.assertIn("aten::cat", str(config.bucket_kernel_graph))
        traced = torch_neuronx.bucket_model_trace(lambda: (models.Encoder(), {}), models.token_examples(8, 16), config)
        self.assertIn("aten::cat", str(traced.bucket_kernel_graph))

    def test_that_is_wrong_is_refused_by_tracing(self):
        config = BucketModelConfig(lambda: torch.jit.script(guide_kernel))
        with self.assertRaisesRegex(KernelError, "bucket 1"):
            torch_neuronx.bucket_model_trace(lambda: (models.Encoder(), {}), models.token_examples(8, 17), config)


class Declared(unittest.TestCase):
    def kernel(self, shapes, dtype=torch.float32, **options):
        shapes = [[shape] for shape in shapes]
        return PadKernel(**options).resolve(shapes, [dtype])

    def test_takes_the_first_bucket_that_fits(self):
        kernel = self.kernel([[8, 8], [16, 16], [8, 32]], dims=[0, 1])
        for shape, bucket in (((1, 1), 0), ((8, 8), 0), ((9, 1), 1), ((8, 16), 1), ((8, 17), 2), ((0, 0), 0)):
            padded, index = kernel.function([torch.ones(shape)])
            self.assertEqual((int(index), list(padded[0].shape)), (bucket, [[8, 8], [16, 16], [8, 32]][bucket]), shape)
        for shape in ((9, 17), (17, 1), (8, 33), (8,), (8, 8, 8)):
            self.assertEqual(kernel.function([torch.ones(shape)])[0], [], shape)

    def test_pads_only_the_dims_it_lists(self):
        kernel = self.kernel([[4, 3], [8, 3]], dims=[0])
        self.assertEqual(kernel.function([torch.ones(2, 2)])[0], [])
        self.assertEqual(list(kernel.function([torch.ones(2, 3)])[0][0].shape), [4, 3])

    def test_pads_on_the_left(self):
        kernel = self.kernel([[4]], torch.int64, dims=[0], value=-1, side="left")
        self.assertEqual(kernel.function([torch.tensor([7, 8])])[0][0].tolist(), [-1, -1, 7, 8])

    def test_pads_every_dtype_with_exactly_its_value(self):
        for name in dtypes.DTYPE_NAMES:
            dtype = getattr(torch, name)
            kernel = self.kernel([[3]], dtype, dims=[0], value=1)
            padded = kernel.function([torch.zeros(2).to(dtype)])[0][0]
            self.assertEqual((padded.dtype, padded.tolist()), (dtype, [0, 0, 1]), name)
        low = self.kernel([[1]], torch.int64, dims=[0], value=-(2**63)).function([torch.zeros(0, dtype=torch.int64)])
        self.assertEqual(low[0][0].tolist(), [-(2**63)])

    def test_refuses_a_value_that_the_dtype_cannot_hold(self):
        for dtype, value in (
            (torch.uint8, -1),
            (torch.int8, 128),
            (torch.int64, 0.5),
            (torch.int64, 2**63),
            (torch.float16, 2049),
            (torch.float16, 65536),
            (torch.bfloat16, 257),
            (torch.float32, 0.1),
            (torch.bool, 2),
            (torch.float32, True),
            (torch.int64, 2**53 + 1),
            (torch.float32, float("inf")),
            (torch.float32, "0"),
        ):
            with self.subTest(dtype=dtype, value=value), self.assertRaises(TraceError):
                self.kernel([[4]], dtype, dims=[0], value=value)

    def test_declares_itself_in_the_metadata(self):
        traced = models.trace(models.Encoder(), models.token_examples(8, 16), PadKernel(value=[3, 0]))
        self.assertEqual(
            traced.metadata["kernel"], {"type": "pad", "value": [3, 0], "side": ["right", "right"], "dims": [[1], [1]]}
        )
        self.assertEqual(traced.metadata["dims"], [{"input": 0, "dim": 1, "min": 1}, {"input": 1, "dim": 1, "min": 1}])

    def test_inputs_pad_independently(self):
        traced = models.trace(
            lambda x, y: (x * 2, y * 3), [(torch.ones(4), torch.ones(2)), (torch.ones(8), torch.ones(6))]
        )
        self.assertEqual([list(tensor.shape) for tensor in traced(torch.ones(2), torch.ones(5))], [[8], [6]])

    def test_scalars_have_nothing_to_pad(self):
        traced = models.save_and_load(models.trace(models.AddOne(), [torch.tensor(1.0)]))
        self.assertEqual(float(traced(torch.tensor(4.0))), 5.0)


if __name__ == "__main__":
    warnings.simplefilter("error")
    unittest.main()
