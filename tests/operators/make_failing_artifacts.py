#!/usr/bin/python3
"""Writes artifacts that crash, hang or raise when asked to; README.md beside this file lists them.

    /usr/bin/python3 tests/operators/make_failing_artifacts.py \\
        --operators build/release/lib/libbucketd_test_operators.so -o FOLDER
"""

import argparse
import pathlib
import sys
from typing import Tuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "libclient" / "python"))

import torch  # noqa: E402

from bucketd import torch_neuronx  # noqa: E402
from bucketd.torch_neuronx import BucketModelConfig, PadKernel  # noqa: E402

TRIGGER = 666
WAYS = ("abort", "null_dereference", "hang", "spin", "exit", "throw_error")


class FailsWhenAsked(torch.nn.Module):
    def __init__(self, way, trigger):
        super().__init__()
        self.way = way
        self.trigger = trigger

    def forward(self, x):
        return getattr(torch.ops.bucketd_test, self.way)(x, self.trigger) + 1


class CountsUntilAsked(torch.nn.Module):
    """Adds its input to a state, in place, and fails after that: the state is then half advanced."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 8))

    def forward(self, x):
        total = self.total + x
        return torch.ops.bucketd_test.abort(x, TRIGGER) * 0 + total, total


class FailsWhileLoading(torch.nn.Module):
    """A scripted part whose __setstate__, which LibTorch runs while it loads, fails."""

    def __init__(self, way: str):
        super().__init__()
        self.way = way
        self.number = 0

    @torch.jit.export
    def __getstate__(self):
        return self.way, self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[str, bool]):
        self.way = state[0]
        self.training = state[1]
        self.number = torch.ops.bucketd_test.crash(0, self.way)

    def forward(self, x):
        return x + self.number + 1


def trace(folder, name, module, length=4, **options):
    config = BucketModelConfig(PadKernel(dims=[1]), name=name, input_names=["x"], output_names=["y"], **options)
    aliases = {module.total: 1} if isinstance(module, CountsUntilAsked) else {}
    examples = [torch.ones(1, 8)] if aliases else [torch.ones(1, n) for n in (length, 2 * length)]
    torch_neuronx.bucket_model_trace(lambda: (module, aliases), examples, config).save(folder / f"{name}.pt")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operators", type=pathlib.Path, required=True, help="the library bucketd_test_operators")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder for the artifacts")
    arguments = parser.parse_args()
    torch.ops.load_library(str(arguments.operators.resolve()))
    arguments.output.mkdir(parents=True, exist_ok=True)
    for way in WAYS:
        trace(arguments.output, f"{way}_when_asked", FailsWhenAsked(way, TRIGGER))
        if way != "throw_error":  # A bucket that raises on zeros is warmed up on ones.
            trace(arguments.output, f"{way}_in_warm_up", FailsWhenAsked(way, 0))
        trace(arguments.output, f"{way}_while_loading", torch.jit.script(FailsWhileLoading(way)))
    trace(arguments.output, "abort_with_state", CountsUntilAsked(), shared_state_buffer=[torch.zeros(1, 8)],
          state_names=["total"])
    print(f"{len(list(arguments.output.glob('*.pt')))} artifacts in {arguments.output}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
