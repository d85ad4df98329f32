import unittest
from typing import List

import torch

import models
from bucketd.errors import CropError
from bucketd.torch_neuronx import Crop, PadKernel


def entry(output, dim, input, input_dim, side="right", numerator=1, denominator=1):
    return {
        "output": output,
        "dim": dim,
        "input": input,
        "input_dim": input_dim,
        "side": side,
        "numerator": numerator,
        "denominator": denominator,
    }


def crops(model, examples, kernel=None, **options):
    return models.trace(model, examples, kernel, **options).metadata["crop"]


def left_kernel(inputs: List[torch.Tensor]):
    x = inputs[0]
    size = 4
    bucket = 0
    if x.size(0) > 4:
        size = 8
        bucket = 1
    padded: List[torch.Tensor] = []
    if x.size(0) <= 8:
        padded.append(torch.cat([torch.zeros([size - x.size(0)], dtype=x.dtype), x]))
    return padded, torch.tensor([bucket])


def reversing_kernel(inputs: List[torch.Tensor]):
    padded, bucket = left_kernel(inputs)
    if len(padded) == 1 and inputs[0].size(0) != padded[0].size(0):
        padded = [padded[0].flip([0])]
    return padded, bucket


class Inference(unittest.TestCase):
    lengths = [torch.ones(4), torch.ones(8)]

    def test_ties_an_output_to_the_input_of_the_same_size(self):
        self.assertEqual(crops(lambda x: x + 1, self.lengths), [entry(0, 0, 0, 0)])

    def test_finds_the_ratio(self):
        self.assertEqual(crops(lambda x: torch.cat([x, x, x]), self.lengths), [entry(0, 0, 0, 0, numerator=3)])
        self.assertEqual(crops(lambda x: x[::4] + 1, self.lengths), [entry(0, 0, 0, 0, denominator=4)])

    def test_leaves_fixed_outputs_whole(self):
        self.assertEqual(crops(lambda x: x.sum().reshape(1), self.lengths), [])

    def test_leaves_outputs_of_no_one_ratio_whole(self):
        self.assertEqual(crops(lambda x: torch.cat([x, x.new_zeros(1)]), self.lengths), [])

    def test_leaves_everything_whole_with_one_bucket(self):
        self.assertEqual(crops(lambda x: x + 1, self.lengths[:1], PadKernel(dims=[0])), [])

    def test_takes_equal_inputs_for_one(self):
        self.assertEqual(crops(lambda x, y: x + y, [(x, x) for x in self.lengths]), [entry(0, 0, 0, 0)])

    def test_tells_height_from_width(self):
        images = [torch.ones(shape) for shape in ((8, 8), (16, 16), (8, 32))]
        self.assertEqual(crops(lambda x: x.transpose(0, 1) + 1, images), [entry(0, 0, 0, 1), entry(0, 1, 0, 0)])

    def test_finds_the_side_of_a_declared_kernel(self):
        self.assertEqual(crops(lambda x: x + 1, self.lengths, PadKernel(side="left")), [entry(0, 0, 0, 0, "left")])

    def test_finds_the_side_of_a_script_kernel_by_running_it(self):
        self.assertEqual(
            crops(lambda x: x + 1, self.lengths, lambda: torch.jit.script(left_kernel)), [entry(0, 0, 0, 0, "left")]
        )

    def test_is_not_confused_by_constant_examples_of_bool(self):
        examples = [torch.ones(n, dtype=torch.bool) for n in (4, 8)]
        self.assertEqual(
            crops(lambda x: ~x, examples, lambda: torch.jit.script(left_kernel)), [entry(0, 0, 0, 0, "left")]
        )

    def test_needs_no_side_where_nothing_is_ever_padded(self):
        self.assertEqual(crops(lambda x: x + 1, [torch.ones(n) for n in (1, 2, 3)]), [entry(0, 0, 0, 0)])


class Ambiguity(unittest.TestCase):
    squares = [torch.ones(4, 4), torch.ones(8, 8)]

    def test_of_two_dims_is_an_error_that_names_both(self):
        with self.assertRaisesRegex(
            CropError, r"dim 0 of output 'y' .* may follow dim 0 of input 'x' or dim 1 of input 'x': say which"
        ):
            models.trace(models.AddOne(), self.squares, input_names=["x"], output_names=["y"])

    def test_is_settled_by_the_author(self):
        annotated = [Crop("y", 0, "x", 0), Crop("y", 1, "x", 1)]
        found = crops(models.AddOne(), self.squares, input_names=["x"], output_names=["y"], crop=annotated)
        self.assertEqual(found, [entry(0, 0, 0, 0), entry(0, 1, 0, 1)])

    def test_is_settled_by_tying_the_dims(self):
        found = crops(models.AddOne(), self.squares, tied_dims=[[(0, 0), (0, 1)]])
        self.assertEqual(found, [entry(0, 0, 0, 0), entry(0, 1, 0, 0)])

    def test_is_settled_by_following_nothing(self):
        found = crops(models.AddOne(), self.squares, crop=[Crop(0, 0, None), Crop(0, 1, 0, 1)])
        self.assertEqual(found, [entry(0, 1, 0, 1)])

    def test_of_different_sizes_of_one_ratio_is_an_error(self):
        with self.assertRaisesRegex(CropError, "say which"):
            crops(lambda x, y: x + 1, [(torch.ones(4), torch.ones(8)), (torch.ones(8), torch.ones(16))])

    def test_of_the_side_is_an_error(self):
        with self.assertRaisesRegex(CropError, "keeps no side of dim 0 of input 'input_0'"):
            crops(
                lambda x: x + 1,
                [torch.ones(4), torch.ones(8)],
                lambda: torch.jit.script(reversing_kernel),
                kernel_may_change_values=True,
            )


class Annotations(unittest.TestCase):
    def refuses(self, message, *annotations):
        with self.assertRaisesRegex(CropError, message):
            models.trace(
                lambda x: (x + 1, x.sum().reshape(1)),
                [torch.ones(4), torch.ones(8)],
                input_names=["x"],
                output_names=["y", "sum"],
                crop=annotations,
            )

    def test_that_contradict_the_buckets_are_refused(self):
        self.refuses("names output 'z'; the outputs are", Crop("z", 0, "x", 0))
        self.refuses("names input 'z'", Crop("y", 0, "z", 0))
        self.refuses("names dim 1 of output 'y', which has rank 1", Crop("y", 1, "x", 0))
        self.refuses("names dim 1 of input 'x', which is not there", Crop("y", 0, "x", 1))
        self.refuses("no one ratio", Crop("sum", 0, "x", 0))
        self.refuses("side 'up'", Crop("y", 0, "x", 0, side="up"))
        self.refuses("two crops name", Crop("y", 0, "x", 0), Crop("y", 0, "x", 0))

    def test_may_name_the_side(self):
        found = crops(lambda x: x + 1, [torch.ones(4), torch.ones(8)], crop=[Crop(0, 0, 0, 0, side="left")])
        self.assertEqual(found, [entry(0, 0, 0, 0, "left")])


if __name__ == "__main__":
    unittest.main()
