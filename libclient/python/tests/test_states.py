import unittest
from typing import List

import torch

import models
from bucketd import torch_neuronx
from bucketd.errors import ArtifactError, KernelError, TraceError
from bucketd.torch_neuronx import BucketModelConfig, PadKernel


# The guide's preprocessor, word for word.
# fmt: off
def state_preprocessor(shapes_collection: List[List[List[int]]], states: List[torch.Tensor], bucket_idx_tensor: torch.Tensor)->List[torch.Tensor]:
    bucket_idx = torch.ops.aten.Int(bucket_idx_tensor)
    shapes = shapes_collection[bucket_idx]
    sliced_state_tensors = []

    for i in range(len(shapes)):
        expected_shape = shapes[i]
        state_tensor = states[i]
        state_tensor_shape = state_tensor.shape
        for j,npos in enumerate(expected_shape):
            state_tensor_dim_length = state_tensor_shape[j]
            state_tensor = torch.ops.aten.slice(state_tensor,dim=j,start=state_tensor_dim_length-npos,end=state_tensor_dim_length)
        sliced_state_tensors.append(state_tensor)

    return sliced_state_tensors


def get_state_preprocessor():
    sp = torch.jit.script(state_preprocessor)
    return sp
# fmt: on


def copying_preprocessor(
    shapes: List[List[List[int]]], states: List[torch.Tensor], bucket: torch.Tensor
) -> List[torch.Tensor]:
    copies: List[torch.Tensor] = []
    for i, state in enumerate(states):
        copies.append(state.narrow(0, 0, shapes[int(bucket)][i][0]).clone())
    return copies


def failing_preprocessor(
    shapes: List[List[List[int]]], states: List[torch.Tensor], bucket: torch.Tensor
) -> List[torch.Tensor]:
    if int(bucket) == 1:
        raise ValueError("not for this one")
    return [states[0].narrow(0, 0, 4)]


class Cache(torch.nn.Module):
    """Adds its input to its cache; gives the sum before, and the cache after."""

    def __init__(self, size):
        super().__init__()
        self.register_buffer("cache", torch.zeros(1, size))
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.cache.sum() * self.weight, self.cache + x


def trace_cache(**options):
    def factory(size):
        model = Cache(size)
        return model, {model.cache: 1}

    arguments = {
        "shared_state_buffer": [torch.zeros(1, 8)],
        "shared_state_buffer_preprocessor": get_state_preprocessor,
        "func_kwargs": [{"size": 4}, {"size": 8}],
        **options,
    }
    config = BucketModelConfig(PadKernel(), **arguments)
    return torch_neuronx.bucket_model_trace(factory, [torch.ones(1, 4), torch.ones(1, 8)], config)


class SharedState(unittest.TestCase):
    def test_the_guides_preprocessor_gives_buckets_the_tail_of_one_buffer(self):
        for model in (trace_cache(), models.save_and_load(trace_cache())):
            model(torch.ones(1, 8))
            self.assertEqual(model.state_0.tolist(), [[1.0] * 8])
            model(torch.ones(1, 4) * 10)
            self.assertEqual(model.state_0.tolist(), [[1.0] * 4 + [11.0] * 4])
            (total,) = model(torch.zeros(1, 4))
            self.assertEqual(float(total), 2 * 44.0)

    def test_is_described(self):
        metadata = trace_cache(state_names=["cache"], sequence_dims={"cache": 1}).metadata
        self.assertEqual(
            metadata["states"], [{"name": "cache", "dtype": "float32", "shape": [1, 8], "sequence_dim": 1}]
        )
        aligned = trace_cache(state_names=["cache"], sequence_dims={0: 1}, sequence_aligns={"cache": "right"}).metadata
        self.assertEqual(aligned["states"], [{**metadata["states"][0], "align": "right"}])
        for aligns in ({"cache": "middle"}, {"cache": ["left"]}):
            with self.assertRaises(ArtifactError):
                trace_cache(state_names=["cache"], sequence_dims={"cache": 1}, sequence_aligns=aligns)
        with self.assertRaises(ArtifactError):
            trace_cache(sequence_aligns={0: "left"})
        self.assertEqual(metadata["aliases"], [{"state": 0, "output": 1}])
        self.assertEqual([bucket["states"] for bucket in metadata["buckets"]], [[[1, 4]], [[1, 8]]])
        self.assertEqual([len(bucket["outputs"]) for bucket in metadata["buckets"]], [1, 1])
        self.assertTrue(metadata["preprocessor"])

    def test_tracing_leaves_initial_values_alone(self):
        initial = torch.arange(8.0).reshape(1, 8)
        model = trace_cache(shared_state_buffer=[initial])
        self.assertEqual(model.state_0.tolist(), [list(range(8))])
        self.assertEqual(initial.tolist(), [list(range(8))])

    def test_without_a_buffer_the_largest_model_gives_the_initial_values(self):
        model = trace_cache(shared_state_buffer=None)
        self.assertEqual(model.metadata["states"][0]["shape"], [1, 8])

    def test_may_be_named_where_the_model_gives_the_initial_values(self):
        model = trace_cache(shared_state_buffer=None, state_names=["cache"])
        self.assertEqual(model.metadata["states"][0]["name"], "cache")

    def test_is_traced_as_it_lies_in_memory(self):
        def model(x, state):
            return (x + 1 if state.is_contiguous() else x - 1), state + 1

        states = torch.zeros(2, 8)
        traced = models.trace(
            model,
            [torch.ones(4), torch.ones(8)],
            aliases={0: 1},
            shared_state_buffer=[states],
            state_shapes=[[[2, 4]], [[2, 8]]],
            shared_state_buffer_preprocessor=get_state_preprocessor,
        )
        self.assertEqual((float(traced(torch.ones(4))[0][0]), float(traced(torch.ones(8))[0][0])), (0.0, 2.0))

    def test_may_be_all_that_a_bucket_gives(self):
        traced = models.save_and_load(
            models.trace(
                lambda x, s: s + x,
                [torch.ones(4)],
                PadKernel(dims=[]),
                aliases={0: 0},
                shared_state_buffer=[torch.zeros(4)],
            )
        )
        self.assertEqual(traced(torch.ones(4)), ())
        self.assertEqual(traced.state_0.tolist(), [1.0] * 4)

    def test_state_is_no_weight_of_the_buckets(self):
        model = trace_cache()
        self.assertEqual([name for name, _ in model.bucket_0.named_buffers()], [])

    def test_without_a_preprocessor_buckets_get_the_whole_buffer(self):
        model = Cache(8)
        traced = models.trace(
            model, [torch.ones(1, 8)], aliases={model.cache: 1}, shared_state_buffer=[torch.ones(1, 8)]
        )
        self.assertFalse(traced.metadata["preprocessor"])
        self.assertEqual(float(traced(torch.zeros(1, 8))[0]), 16.0)

    def test_without_a_preprocessor_a_part_is_refused(self):
        with self.assertRaisesRegex(KernelError, r"the model gets bucket 0 state 0 as .*\[1, 8\]"):
            trace_cache(shared_state_buffer_preprocessor=None)

    def test_a_preprocessor_that_copies_a_written_state_is_refused(self):
        with self.assertRaisesRegex(KernelError, "copy of state 0, so that what the bucket writes would be lost"):
            models.trace(
                lambda x, s: (x + 1, s + 1),
                [torch.ones(4)],
                PadKernel(dims=[]),
                aliases={0: 1},
                shared_state_buffer=[torch.zeros(4)],
                shared_state_buffer_preprocessor=lambda: torch.jit.script(copying_preprocessor),
            )

    def test_a_copy_that_is_written_in_place_is_refused(self):
        with self.assertRaisesRegex(TraceError, "writes into state 0, but the state preprocessor gave it a copy"):
            models.trace(
                lambda x, s: x + s.add_(1),
                [torch.ones(4)],
                PadKernel(dims=[]),
                shared_state_buffer=[torch.zeros(4)],
                shared_state_buffer_preprocessor=lambda: torch.jit.script(copying_preprocessor),
            )

    def test_a_copy_that_is_only_read_is_accepted(self):
        traced = models.trace(
            lambda x, s: x + s,
            [torch.ones(4)],
            PadKernel(dims=[]),
            shared_state_buffer=[torch.ones(4)],
            shared_state_buffer_preprocessor=lambda: torch.jit.script(copying_preprocessor),
        )
        self.assertEqual(float(traced(torch.ones(4))[0]), 2.0)

    def test_a_preprocessor_that_fails_is_refused(self):
        with self.assertRaisesRegex(KernelError, "the state preprocessor fails for bucket 1: (.|\n)*not for this one"):
            models.trace(
                lambda x, s: x + 1,
                [torch.ones(4), torch.ones(8)],
                shared_state_buffer=[torch.zeros(8)],
                state_shapes=[[[4]], [[8]]],
                shared_state_buffer_preprocessor=lambda: torch.jit.script(failing_preprocessor),
            )


class Aliases(unittest.TestCase):
    def test_may_be_members_of_the_shared_buffer_numbers_or_names(self):
        for key in ("buffer", 0, "total"):
            buffer = torch.zeros(4)
            traced = models.trace(
                lambda x, s: (x, s + x),
                [torch.ones(4)],
                PadKernel(dims=[]),
                aliases={buffer if key == "buffer" else key: 1},
                shared_state_buffer=[buffer],
                state_names=["total"],
            )
            traced(torch.ones(4))
            traced(torch.ones(4))
            self.assertEqual(traced.state_0.tolist(), [2.0] * 4, key)

    def test_state_without_alias_is_updated_in_place(self):
        def model(x, state):
            state.add_(x)
            return state.clone()

        loaded = models.save_and_load(
            models.trace(model, [torch.ones(4)], PadKernel(dims=[]), shared_state_buffer=[torch.zeros(4)])
        )
        loaded(torch.ones(4))
        self.assertEqual(loaded(torch.ones(4)).tolist(), [2.0] * 4)

    def test_outputs_are_not_changed_by_the_write_back(self):
        traced = models.trace(
            lambda x, s: (s, s + x),
            [torch.ones(2)],
            PadKernel(dims=[]),
            aliases={0: 1},
            shared_state_buffer=[torch.zeros(2)],
        )
        first = traced(torch.ones(2))[0]
        traced(torch.ones(2))
        self.assertEqual(first.tolist(), [0.0, 0.0])

    def test_states_can_be_swapped(self):
        traced = models.trace(
            lambda x, a, b: (x + 0, b, a),
            [torch.ones(1)],
            PadKernel(dims=[]),
            aliases={0: 1, 1: 2},
            shared_state_buffer=[torch.ones(1), torch.ones(1) * 2],
        )
        traced(torch.ones(1))
        self.assertEqual((float(traced.state_0), float(traced.state_1)), (2.0, 1.0))

    def test_write_back_builds_no_gradient(self):
        traced = trace_cache()
        traced(torch.ones(1, 8))
        traced(torch.ones(1, 8))
        self.assertIsNone(traced.state_0.grad_fn)

    def test_of_an_ordinary_output_is_refused(self):
        with self.assertRaisesRegex(TraceError, "aliased ones have to be the last"):
            models.trace(
                lambda x, s: (s + x, x),
                [torch.ones(1)],
                PadKernel(dims=[]),
                aliases={0: 0},
                shared_state_buffer=[torch.ones(1)],
            )

    def test_that_change_shape_or_dtype_are_refused(self):
        for update in (lambda s: s[:1], lambda s: s.double()):
            with self.assertRaisesRegex(TraceError, "output 1 of bucket 0 is .* it is to update state 0"):
                models.trace(
                    lambda x, s: (x, update(s + 1)),
                    [torch.ones(2)],
                    PadKernel(dims=[]),
                    aliases={0: 1},
                    shared_state_buffer=[torch.ones(2)],
                )

    def test_of_a_strange_tensor_are_refused(self):
        with self.assertRaisesRegex(TraceError, "neither a tensor of the model nor one of shared_state_buffer"):
            models.trace(
                lambda x, s: (x, s),
                [torch.ones(2)],
                PadKernel(dims=[]),
                aliases={torch.ones(2): 1},
                shared_state_buffer=[torch.ones(2), torch.ones(2)],
            )

    def test_of_unknown_names_are_refused(self):
        with self.assertRaisesRegex(TraceError, "names state 'other'"):
            models.trace(
                lambda x, s: (x, s),
                [torch.ones(2)],
                PadKernel(dims=[]),
                aliases={"other": 1},
                shared_state_buffer=[torch.ones(2)],
            )


if __name__ == "__main__":
    unittest.main()
