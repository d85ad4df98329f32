#!/usr/bin/python3
"""Writes the small artifacts of the conformance suite; README.md beside this file lists them."""

import argparse
import pathlib
import sys
import time
from typing import List

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "libclient" / "python"))

import torch  # noqa: E402

from bucketd import dtypes, torch_neuronx  # noqa: E402
from bucketd.torch_neuronx import BucketModelConfig, PadKernel  # noqa: E402

SLOW_MATRIX_SIZE = 64


class Identity(torch.nn.Module):
    def forward(self, x):
        return x.clone()


class AddOne(torch.nn.Module):
    def forward(self, x):
        return x + 1


class Double(torch.nn.Module):
    def forward(self, x):
        return 2 * x


class SumOfThree(torch.nn.Module):
    def forward(self, input_ids, attention_mask, token_type_ids):
        return (input_ids + attention_mask + token_type_ids,)


class Multi(torch.nn.Module):
    """Two outputs follow the inputs' length, the third does not."""

    def forward(self, values, marks):
        weighted = values * marks
        return weighted, marks * 2, torch.stack([values.sum(1), weighted.sum(1), marks.sum(1).float()], dim=1)


@torch.jit.script
def slow_loop(iterations: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    count = int(iterations[0])
    value = matrix
    for _ in range(count):
        value = torch.tanh(torch.matmul(value, matrix))
    return value.sum().reshape([1])


class SlowLoop(torch.nn.Module):
    """Scripted, so that the number of rounds is read from the input on every call."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.register_buffer("matrix", torch.randn(SLOW_MATRIX_SIZE, SLOW_MATRIX_SIZE, generator=generator))

    def forward(self, iterations):
        return slow_loop(iterations, self.matrix)


class Counter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 8))

    def forward(self, x):
        total = self.total + x
        return total, total


class Tape(torch.nn.Module):
    """Two integer states, so that every byte can be foretold: `tape` is replaced, `marks` written in place."""

    def forward(self, x, tape, marks):
        total = x.sum()
        new_tape = torch.remainder(tape * 31 + total, 1000003)
        marks.add_(total)
        return (new_tape.sum() + marks.sum()).reshape([1]), new_tape


TAPE_POSITIONS = (8, 16)


def leading_part(shapes_collection: List[List[List[int]]], states: List[torch.Tensor], bucket_idx: torch.Tensor):
    shapes = shapes_collection[int(bucket_idx)]
    views: List[torch.Tensor] = []
    for i, view in enumerate(states):
        for j, size in enumerate(shapes[i]):
            view = torch.ops.aten.slice(view, dim=j, start=0, end=size)
        views.append(view)
    return views


# The state preprocessor of the guide.
def trailing_part(shapes_collection: List[List[List[int]]], states: List[torch.Tensor], bucket_idx: torch.Tensor):
    shapes = shapes_collection[torch.ops.aten.Int(bucket_idx)]
    views: List[torch.Tensor] = []
    for i in range(len(shapes)):
        view = states[i]
        for j, size in enumerate(shapes[i]):
            length = states[i].shape[j]
            view = torch.ops.aten.slice(view, dim=j, start=length - size, end=length)
        views.append(view)
    return views


# The kernel of the autobucketing guide, word for word.
def sequence_length_bucket_kernel(tensor_list: List[torch.Tensor]):
    x = tensor_list[0]
    bucket_dim = 1
    x_shape = x.shape
    tensor_sequence_length = x_shape[bucket_dim]
    batch_size = x_shape[bucket_dim - 1]
    buckets = [128, 512]
    idx = 0
    num_inputs = 3
    bucket = buckets[0]
    reshaped_tensors: List[torch.Tensor] = []
    bucket_idx = 0
    for idx, bucket in enumerate(buckets):
        if tensor_sequence_length <= bucket:
            bucket_idx = idx
            for tensor in tensor_list:
                if num_inputs == 0:
                    break
                delta = bucket - tensor_sequence_length
                padding_shape: List[int] = [batch_size, delta]
                zeros = torch.zeros(padding_shape, dtype=x.dtype)
                reshaped_tensors.append(torch.cat([tensor, zeros], dim=bucket_dim))
                num_inputs -= 1
            break
    return reshaped_tensors, torch.tensor([bucket_idx])


def get_bucket_kernel(*_):
    bk = torch.jit.script(sequence_length_bucket_kernel)
    return bk


def trace(folder, name, model, examples, kernel, **options):
    """Traces `model` (the same for every bucket) and writes `folder/name.pt`."""
    config = BucketModelConfig(kernel, name=name, **options)
    aliases = {model.total: 1} if isinstance(model, Counter) else {}
    traced = torch_neuronx.bucket_model_trace(lambda: (model, aliases), examples, config)
    traced.save(folder / f"{name}.pt")


def make_identities(folder):
    for dtype in dtypes.DTYPE_NAMES:
        examples = [torch.ones(n).to(getattr(torch, dtype)) for n in (4, 8, 16)]
        kernel = PadKernel(dims=[0], value=0)
        trace(
            folder,
            f"identity_{dtype}",
            Identity(),
            examples,
            kernel,
            input_names=["x"],
            output_names=["y"],
            min_sizes={("x", 0): 0},
        )


def make_ranks(folder):
    one = {"input_names": ["x"], "output_names": ["y"]}
    trace(folder, "rank_0", AddOne(), [torch.tensor(1.0)], PadKernel(dims=[]), **one)
    for rank in range(1, 9):
        examples = [torch.ones([n] + [3] * (rank - 1)) for n in (2, 4)]
        trace(folder, f"rank_{rank}", AddOne(), examples, PadKernel(dims=[0]), **one)


def make_kernels(folder):
    one = {"input_names": ["x"], "output_names": ["y"]}
    trace(
        folder,
        "two_dims",
        AddOne(),
        [torch.ones(shape) for shape in ((8, 8), (16, 16), (8, 32))],
        PadKernel(dims=[0, 1]),
        **one,
    )
    trace(
        folder,
        "left_pad",
        Double(),
        [torch.ones(1, n, dtype=torch.int64) for n in (4, 8)],
        PadKernel(dims=[1], value=-1, side="left"),
        **one,
    )
    trace(
        folder,
        "script_kernel",
        SumOfThree(),
        [[torch.ones(1, n, dtype=torch.int64)] * 3 for n in (128, 512)],
        get_bucket_kernel,
        input_names=["input_ids", "attention_mask", "token_type_ids"],
        output_names=["sum"],
    )
    trace(
        folder,
        "multi",
        Multi(),
        [(torch.ones(1, n), torch.ones(1, n, dtype=torch.int64)) for n in (4, 8)],
        PadKernel(dims=[1], value=[0.5, 0]),
        input_names=["values", "marks"],
        output_names=["weighted", "doubled", "sums"],
    )
    trace(folder, "static_one", AddOne(), [torch.ones(2, 3)], PadKernel(dims=[]), **one)


def make_slow_and_stateful(folder):
    trace(
        folder,
        "slow",
        torch.jit.script(SlowLoop()),
        [torch.ones(1, dtype=torch.int64)],
        PadKernel(dims=[]),
        input_names=["iterations"],
        output_names=["checksum"],
    )
    trace(
        folder,
        "counter",
        Counter(),
        [torch.ones(1, 8)],
        PadKernel(dims=[]),
        shared_state_buffer=[torch.zeros(1, 8)],
        input_names=["x"],
        output_names=["sum"],
        state_names=["total"],
    )


def make_tapes(folder):
    """Buckets of 4 and 8 numbers over the first (`tape_head`) or last (`tape_tail`) 8 or all 16 positions."""
    for name, preprocessor in (("tape_head", leading_part), ("tape_tail", trailing_part)):
        config = BucketModelConfig(
            PadKernel(dims=[1]),
            name=name,
            input_names=["x"],
            output_names=["check"],
            shared_state_buffer=[torch.arange(32).reshape(2, 16), torch.arange(16) * 10],
            shared_state_buffer_preprocessor=lambda chosen=preprocessor: torch.jit.script(chosen),
            state_names=["tape", "marks"],
            sequence_dims={"tape": 1, "marks": 0},
            state_shapes=[[[2, positions], [positions]] for positions in TAPE_POSITIONS],
        )
        examples = [torch.ones(1, n, dtype=torch.int64) for n in (4, 8)]
        traced = torch_neuronx.bucket_model_trace(lambda: (Tape(), {"tape": 1}), examples, config)
        traced.save(folder / f"{name}.pt")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder for the artifacts")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for make in (make_identities, make_ranks, make_kernels, make_slow_and_stateful, make_tapes):
        make(folder)
    count = len(list(folder.glob("*.pt")))
    print(f"{count} artifacts in {folder}, {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
