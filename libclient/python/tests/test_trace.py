import pathlib
import tempfile
import unittest
import warnings

import torch

import models
from bucketd import artifact, torch_neuronx
from bucketd.errors import TraceError
from bucketd.torch_neuronx import BucketModelConfig, PadKernel


class TracedModel(unittest.TestCase):
    def test_gives_what_the_model_gives_on_the_padded_input(self):
        model = models.Encoder()
        traced = models.trace(model, models.token_examples(8, 16))
        ids, mask = torch.arange(1, 12)[None], torch.ones(1, 11, dtype=torch.int64)
        hidden, count = traced(ids, mask)
        expected, expected_count = model(ids, mask)
        self.assertEqual(list(hidden.shape), [1, 16, 8])
        torch.testing.assert_close(hidden[:, :11], expected)
        self.assertEqual(int(count), int(expected_count))

    def test_loaded_without_bucketd_gives_the_same_bits(self):
        traced = models.trace(models.Encoder(), models.token_examples(8, 16))
        loaded = models.save_and_load(traced)
        for length in (1, 7, 8, 9, 16):
            (example,) = models.token_examples(length)
            for ours, plain in zip(traced(*example), loaded(*example)):
                self.assertTrue(torch.equal(ours, plain))

    def test_refuses_an_input_that_no_bucket_takes(self):
        loaded = models.save_and_load(models.trace(models.Encoder(), models.token_examples(8, 16), name="encoder"))
        (too_long,) = models.token_examples(17)
        with self.assertRaisesRegex(
            Exception, r"no bucket of model encoder takes inputs of shapes \[\[1, 17\], \[1, 17\]\]"
        ):
            loaded(*too_long)

    def test_refuses_an_input_of_another_dtype(self):
        traced = models.trace(models.AddOne(), [torch.ones(4), torch.ones(8)], input_names=["x"])
        with self.assertRaisesRegex(Exception, "input x of model model has to be float32"):
            traced(torch.ones(3, dtype=torch.float64))

    def test_gives_a_tensor_where_the_model_does_and_a_tuple_where_the_model_does(self):
        self.assertIsInstance(models.trace(models.AddOne(), [torch.ones(4)])(torch.ones(4)), torch.Tensor)
        tuple_of_one = models.trace(lambda x: (x + 1,), [torch.ones(4)])(torch.ones(4))
        self.assertIsInstance(tuple_of_one, tuple)
        self.assertEqual(len(tuple_of_one), 1)

    def test_names_the_outputs_of_a_model_that_gives_a_mapping(self):
        traced = models.trace(lambda x: {"logits": x + 1, "hidden": x * 2}, [torch.ones(4)])
        self.assertEqual([output["name"] for output in traced.metadata["outputs"]], ["logits", "hidden"])
        self.assertEqual(float(traced(torch.ones(4))[1][0]), 2.0)

    def test_is_traced_in_evaluation_mode_and_the_model_left_as_it_was(self):
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)).train()
        traced = models.trace(model, [torch.ones(1, 4)])
        self.assertTrue(model.training)
        self.assertTrue(torch.equal(traced(torch.ones(1, 4)), traced(torch.ones(1, 4))))

    def test_needs_no_gradient(self):
        traced = models.trace(models.Encoder(), models.token_examples(8))
        self.assertFalse(traced(*models.token_examples(8)[0])[0].requires_grad)

    def test_keeps_control_flow_of_a_scripted_model(self):
        @torch.jit.script
        def count_down(x: torch.Tensor) -> torch.Tensor:
            steps = 0
            while bool(x[0] > 0):
                x = x - 1
                steps += 1
            return torch.tensor([steps])

        traced = models.save_and_load(models.trace(count_down, [torch.tensor([3])], PadKernel(dims=[])))
        self.assertEqual(int(traced(torch.tensor([11]))), 11)

    def test_random_model_is_refused(self):
        with self.assertRaisesRegex(TraceError, "is not the same when the traced bucket runs again"):
            models.trace(lambda x: x + torch.rand(4), [torch.ones(4)])

    def test_takes_many_buckets(self):
        traced = models.trace(models.AddOne(), [torch.ones(size) for size in range(1, 65)])
        loaded = models.save_and_load(traced)
        self.assertEqual(float(loaded(torch.ones(40)).sum()), 80.0)


class Arguments(unittest.TestCase):
    def test_kwargs_go_to_every_call_of_the_factory(self):
        seen = []

        def factory(**kwargs):
            seen.append(kwargs)
            return models.AddOne(), {}

        config = BucketModelConfig(PadKernel(), func_kwargs={"size": 3})
        torch_neuronx.bucket_model_trace(factory, [torch.ones(4), torch.ones(8)], config)
        self.assertEqual(seen, [{"size": 3}, {"size": 3}])

    def test_list_of_kwargs_gives_each_bucket_its_own(self):
        config = BucketModelConfig(PadKernel(), func_kwargs=[{"addend": 10.0}, {"addend": 20.0}])
        traced = torch_neuronx.bucket_model_trace(
            lambda addend: (lambda x: x + addend, {}), [torch.ones(4), torch.ones(8)], config
        )
        self.assertEqual(float(traced(torch.ones(4))[0]), 11.0)
        self.assertEqual(float(traced(torch.ones(5))[0]), 21.0)

    def test_list_of_kwargs_of_another_length_is_refused(self):
        config = BucketModelConfig(PadKernel(), func_kwargs=[{}])
        with self.assertRaisesRegex(TraceError, "func_kwargs has 1 entries, but there are 2 buckets"):
            torch_neuronx.bucket_model_trace(lambda: (models.AddOne(), {}), [torch.ones(4), torch.ones(8)], config)

    def test_compiler_arguments_are_accepted(self):
        traced = torch_neuronx.bucket_model_trace(
            lambda: (models.AddOne(), {}),
            [torch.ones(4)],
            BucketModelConfig(PadKernel()),
            compiler_workdir="/nowhere",
            compiler_args=["--target", "trn1"],
        )
        self.assertEqual(float(traced(torch.ones(4))[0]), 2.0)

    def test_model_instead_of_a_factory_is_refused(self):
        with self.assertRaisesRegex(TraceError, "not the model"):
            torch_neuronx.bucket_model_trace(models.AddOne(), [torch.ones(4)], BucketModelConfig(PadKernel()))

    def test_factory_that_returns_no_aliases_is_refused(self):
        with self.assertRaisesRegex(TraceError, r"\(model, input_output_aliases\)"):
            torch_neuronx.bucket_model_trace(lambda: models.AddOne(), [torch.ones(4)], BucketModelConfig(PadKernel()))

    def test_script_function_instead_of_a_factory_is_refused(self):
        with self.assertRaisesRegex(TraceError, "not that function"):
            BucketModelConfig(torch.jit.CompilationUnit("def kernel(x):\n    return x\n").kernel)

    def test_examples_of_different_input_counts_are_refused(self):
        with self.assertRaisesRegex(TraceError, "bucket 1 has 1 example inputs, bucket 0 has 2"):
            models.trace(lambda *x: x[0], [(torch.ones(4), torch.ones(4)), (torch.ones(8),)])

    def test_examples_of_different_dtypes_are_refused(self):
        with self.assertRaisesRegex(TraceError, "input 0 is torch.float64 of rank 1 in bucket 1"):
            models.trace(models.AddOne(), [torch.ones(4), torch.ones(8).double()])

    def test_buckets_that_give_different_dtypes_are_refused(self):
        config = BucketModelConfig(PadKernel(), func_kwargs=[{"to": torch.float32}, {"to": torch.float64}])
        with self.assertRaisesRegex(TraceError, "every bucket has to give the same outputs"):
            torch_neuronx.bucket_model_trace(
                lambda to: (lambda x: x.to(to) + 1, {}), [torch.ones(4), torch.ones(8)], config
            )

    def test_bad_names_are_refused(self):
        with self.assertRaisesRegex(TraceError, "model name 'a b'"):
            BucketModelConfig(PadKernel(), name="a b")
        for options, message in (
            ({"input_names": ["x", "y"]}, "input_names has 2 names, but there are 1"),
            ({"input_names": ["x/y"]}, "the input name 'x/y'"),
            ({"output_names": []}, "output_names has 0 names"),
        ):
            with self.subTest(options), self.assertRaisesRegex(TraceError, message):
                models.trace(models.AddOne(), [torch.ones(4), torch.ones(8)], **options)


class Weights(unittest.TestCase):
    def file_size(self, factory):
        config = BucketModelConfig(PadKernel())
        examples = models.token_examples(8, 16, 32)
        traced = torch_neuronx.bucket_model_trace(factory, examples, config)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.pt"
            traced.save(path)
            return path.stat().st_size

    def test_of_one_model_are_stored_once(self):
        model = models.Encoder(width=256)
        self.assertLess(self.file_size(lambda: (model, {})), 1.3 * 4 * (100 * 256 + 256 * 257))

    def test_of_fresh_equal_models_are_stored_once(self):
        self.assertLess(self.file_size(lambda: (models.Encoder(width=256), {})), 1.3 * 4 * (100 * 256 + 256 * 257))

    def test_of_different_models_are_all_stored(self):
        seeds = iter(range(3))
        size = self.file_size(lambda: (models.Encoder(width=256, seed=next(seeds)), {}))
        self.assertGreater(size, 3 * 4 * (100 * 256 + 256 * 257))

    def test_that_differ_in_one_bit_are_not_shared(self):
        base = models.Encoder()
        changed = models.Encoder()
        with torch.no_grad():
            changed.linear.weight[0, 0] = -changed.linear.weight[0, 0]
        made = iter([base, changed])
        config = BucketModelConfig(PadKernel())
        traced = torch_neuronx.bucket_model_trace(lambda: (next(made), {}), models.token_examples(8, 16), config)
        for length, model in ((8, base), (16, changed)):
            (example,) = models.token_examples(length)
            torch.testing.assert_close(traced(*example)[0], model(*example)[0])

    def test_of_a_model_of_the_caller_do_not_become_one_another(self):
        model = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.LayerNorm(4))
        models.trace(model, [torch.ones(1, 4), torch.ones(2, 4)])
        self.assertNotEqual(model[0].weight.data_ptr(), model[1].weight.data_ptr())


class Saving(unittest.TestCase):
    def test_all_ways_write_the_same_sealed_file(self):
        traced = models.trace(models.Encoder(), models.token_examples(8, 16))
        contents = []
        for save in (
            lambda path: traced.save(path),
            lambda path: torch.jit.save(traced, path),
            lambda path: torch.jit.save(traced, str(path)),
            lambda path: torch_neuronx.save(traced, path),
        ):
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "model.pt"
                save(path)
                self.assertEqual(artifact.verify(path), traced.metadata)
                self.assertEqual([entry.name for entry in pathlib.Path(folder).iterdir()], ["model.pt"])
                contents.append(path.read_bytes())
        self.assertEqual(len(set(contents)), 1)

    def test_leaves_the_old_file_when_it_fails(self):
        traced = models.trace(models.AddOne(), [torch.ones(4)])
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.pt"
            path.write_bytes(b"old")
            traced.metadata["name"] = object()
            with self.assertRaises(TypeError):
                traced.save(path)
            self.assertEqual(path.read_bytes(), b"old")
            self.assertEqual(len(list(pathlib.Path(folder).iterdir())), 1)

    def test_keeps_extra_files_of_the_caller(self):
        traced = models.trace(models.AddOne(), [torch.ones(4)])
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.pt"
            torch.jit.save(traced, path, _extra_files={"notes.txt": b"mine"})
            files = {"notes.txt": ""}
            torch.jit.load(str(path), _extra_files=files)
            self.assertEqual(files["notes.txt"], b"mine")
            self.assertEqual(artifact.verify(path), traced.metadata)


if __name__ == "__main__":
    warnings.simplefilter("error")
    unittest.main()
