"""Which tensor is which state, and what the buckets write into it."""

import unittest
from typing import List

import torch

import models
from bucketd import torch_neuronx
from bucketd.errors import TraceError
from bucketd.torch_neuronx import BucketModelConfig, PadKernel


def trace_models(made, sizes, **options):
    """The bucket model of one `(model, aliases)` per bucket, whose inputs have these sizes."""
    config = BucketModelConfig(PadKernel(), func_kwargs=[{"number": n} for n in range(len(made))], **options)
    return torch_neuronx.bucket_model_trace(lambda number: made[number], [torch.ones(n) for n in sizes], config)


class TwoStates(torch.nn.Module):
    """Adds its input's sum to `first` and twice that to `second`; gives these in either order."""

    def __init__(self, first_comes_first):
        super().__init__()
        self.register_buffer("second", torch.zeros(2))
        self.register_buffer("first", torch.zeros(2))
        self.first_comes_first = first_comes_first

    def forward(self, x):
        first, second = self.first + x.sum(), self.second + 2 * x.sum()
        return (x, first, second) if self.first_comes_first else (x, second, first)

    def aliases(self, order):
        outputs = {"first": 1, "second": 2} if self.first_comes_first else {"second": 1, "first": 2}
        return {getattr(self, name): outputs[name] for name in order}


class Pairing(unittest.TestCase):
    def test_does_not_depend_on_the_order_in_which_buckets_name_their_states(self):
        left, right = TwoStates(True), TwoStates(True)
        made = [(left, left.aliases(["first", "second"])), (right, right.aliases(["second", "first"]))]
        model = models.save_and_load(trace_models(made, (4, 8)))
        for size in (4, 8, 4):
            model(torch.ones(size))
        self.assertEqual((model.state_0.tolist(), model.state_1.tolist()), ([16.0] * 2, [32.0] * 2))

    def test_goes_by_state_names_that_are_the_models_own(self):
        one = TwoStates(True)
        model = trace_models([(one, one.aliases(["second", "first"]))], (4,), state_names=["first", "second"])
        model(torch.ones(4))
        self.assertEqual((model.state_0.tolist(), model.state_1.tolist()), ([4.0] * 2, [8.0] * 2))

    def test_goes_by_order_where_the_names_are_others(self):
        one = TwoStates(True)
        model = trace_models([(one, one.aliases(["second", "first"]))], (4,), state_names=["a", "b"])
        model(torch.ones(4))
        self.assertEqual((model.state_0.tolist(), model.state_1.tolist()), ([8.0] * 2, [4.0] * 2))

    def test_of_states_that_give_their_outputs_in_another_order_is_refused(self):
        left, right = TwoStates(True), TwoStates(False)
        made = [(left, left.aliases(["first", "second"])), (right, right.aliases(["second", "first"]))]
        with self.assertRaisesRegex(TraceError, "input_output_aliases of bucket 1 are not those of bucket 0"):
            trace_models(made, (4, 8))

    def test_of_names_that_fit_in_part_is_refused(self):
        one = TwoStates(True)
        with self.assertRaisesRegex(TraceError, "names the states .* paired by name"):
            trace_models([(one, one.aliases(["first", "second"]))], (4,), state_names=["first", "other"])

    def test_is_right_for_more_than_ten_states(self):
        # Sorted as text, state_10 comes before state_2.
        class Many(torch.nn.Module):
            def __init__(self):
                super().__init__()
                for number in range(12):
                    self.register_buffer(f"cache_{number}", torch.zeros(number + 1))

            def forward(self, x):
                return (x, *(getattr(self, f"cache_{number}") + number for number in range(12)))

        one = Many()
        aliases = {getattr(one, f"cache_{number}"): number + 1 for number in range(12)}
        model = models.save_and_load(models.trace(one, [torch.ones(4)], PadKernel(dims=[]), aliases=aliases))
        model(torch.ones(4))
        for number in range(12):
            self.assertEqual(getattr(model, f"state_{number}").tolist(), [float(number)] * (number + 1))


class Counter(torch.nn.Module):
    """Counts in its own buffer, in one of three ways."""

    def __init__(self, way):
        super().__init__()
        self.register_buffer("count", torch.zeros(2))
        self.way = way

    def forward(self, x):
        if self.way == "in place":
            self.count.add_(1)
        else:
            self.count = self.count + 1
        return (x + self.count[0], self.count) if self.way == "returned" else x + self.count[0]


class OwnTensors(unittest.TestCase):
    def test_may_be_written_in_place(self):
        model = Counter("in place")
        loaded = models.save_and_load(models.trace(model, [torch.zeros(4)], PadKernel(dims=[]), {model.count: None}))
        self.assertEqual([float(loaded(torch.zeros(4))[0]) for _ in range(3)], [1.0, 2.0, 3.0])
        self.assertEqual(loaded.state_0.tolist(), [3.0] * 2)
        self.assertEqual(model.count.tolist(), [0.0] * 2)

    def test_that_are_replaced_have_to_be_returned(self):
        model = Counter("returned")
        loaded = models.save_and_load(models.trace(model, [torch.zeros(4)], PadKernel(dims=[]), {model.count: 1}))
        loaded(torch.zeros(4))
        self.assertEqual(loaded.state_0.tolist(), [1.0] * 2)
        model = Counter("replaced")
        with self.assertRaisesRegex(TraceError, "puts another tensor in the place of state 0, which would be lost"):
            models.trace(model, [torch.zeros(4)], PadKernel(dims=[]), {model.count: None})

    def test_may_be_aliased_beside_others_that_are_written_in_place(self):
        class Both(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("written", torch.zeros(1))
                self.register_buffer("given", torch.zeros(1))

            def forward(self, x):
                self.written.add_(x.sum())
                return x, self.given + 1

        model = Both()
        aliases = {model.written: None, model.given: 1}
        loaded = models.save_and_load(models.trace(model, [torch.ones(4)], PadKernel(dims=[]), aliases))
        loaded(torch.ones(4))
        loaded(torch.ones(4))
        self.assertEqual((float(loaded.state_0), float(loaded.state_1)), (8.0, 2.0))


def first_rows_and_columns(
    shapes: List[List[List[int]]], states: List[torch.Tensor], bucket: torch.Tensor
) -> List[torch.Tensor]:
    rows, columns = shapes[int(bucket)][0]
    return [states[0][:rows, :columns]]


def row_of_its_own(
    shapes: List[List[List[int]]], states: List[torch.Tensor], bucket: torch.Tensor
) -> List[torch.Tensor]:
    return [states[0].select(0, int(bucket))]


def transposed(shapes: List[List[List[int]]], states: List[torch.Tensor], bucket: torch.Tensor) -> List[torch.Tensor]:
    return [states[0].transpose(0, 1).narrow(1, 1, shapes[int(bucket)][0][1])]


def count_up(x, state):
    state.add_(1)
    return x + state.sum()


class Preprocessors(unittest.TestCase):
    def trace(self, preprocessor, shape, state_shapes, in_place):
        return models.save_and_load(
            models.trace(
                count_up if in_place else lambda x, state: (x + (state + 1).sum(), state + 1),
                [torch.zeros(2), torch.zeros(4)],
                aliases={} if in_place else {0: 1},
                shared_state_buffer=[torch.zeros(shape)],
                state_shapes=state_shapes,
                shared_state_buffer_preprocessor=lambda: torch.jit.script(preprocessor),
            )
        )

    def test_may_slice_several_dims_at_their_heads(self):
        for in_place in (True, False):
            model = self.trace(first_rows_and_columns, (2, 4), [[[1, 2]], [[2, 3]]], in_place)
            model(torch.zeros(2))
            model(torch.zeros(4))
            self.assertEqual(model.state_0.tolist(), [[2.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])

    def test_may_give_each_bucket_a_part_of_its_own(self):
        for in_place in (True, False):
            model = self.trace(row_of_its_own, (2, 3), [[[3]], [[3]]], in_place)
            model(torch.zeros(4))
            self.assertEqual(model.state_0.tolist(), [[0.0] * 3, [1.0] * 3])

    def test_may_transpose(self):
        for in_place in (True, False):
            model = self.trace(transposed, (3, 2), [[[2, 1]], [[2, 2]]], in_place)
            model(torch.zeros(2))
            model(torch.zeros(4))
            self.assertEqual(model.state_0.tolist(), [[0.0, 0.0], [2.0, 2.0], [1.0, 1.0]])


if __name__ == "__main__":
    unittest.main()
