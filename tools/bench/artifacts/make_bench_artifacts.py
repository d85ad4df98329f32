#!/usr/bin/python3
"""Writes the artifacts that bucketd-bench measures; those that are there already stay as they are.

    make_bench_artifacts.py -o FOLDER [NAME ...]      default: all

  guide_20us, guide_4ms   the guide's kernel, buckets of 128 and 512 tokens; the bucket of 128 runs about so long
  state_20us, state_4ms   the same with two states, and the guide's state preprocessor
  identity                16 float32 in and out, one bucket
  probe_N                 N bytes of float32 in, 64 bytes out: the input's first and last values, eight times
  bert_1, bert_8          BERT base with one bucket of 128 tokens, and with eight up to it
"""

import argparse
import os
import pathlib
import sys
import time
from typing import List

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "libclient" / "python"), str(ROOT / "libclient" / "python" / "examples")]

import torch  # noqa: E402

import bert  # noqa: E402
from bucketd import torch_neuronx  # noqa: E402
from bucketd.torch_neuronx import BucketModelConfig, PadKernel  # noqa: E402
from guide_bert import get_bucket_kernel  # noqa: E402

GUIDE_INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
GUIDE_BUCKETS = (128, 512)
PROBE_BYTES = (64, 4096, 65536, 1 << 20, 1 << 24, 1 << 26)
ANSWER_VALUES = 16
BERT_BUCKETS = range(16, 129, 16)


class Work(torch.nn.Module):
    """Takes the guide's three inputs; `rounds` products of `width` x `width` matrices, or of a vector and one."""

    def __init__(self, width, rounds, is_vector):
        super().__init__()
        self.rounds = rounds
        self.is_vector = is_vector
        generator = torch.Generator().manual_seed(11)
        self.register_buffer("matrix", torch.randn(width, width, generator=generator) / width**0.5)

    def work(self, inputs):
        scale = inputs.sum().to(torch.float32)
        value = self.matrix[:1] if self.is_vector else self.matrix
        value = value * scale
        for _ in range(self.rounds):
            value = torch.matmul(value, self.matrix)
        return value[:1, :ANSWER_VALUES]

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.work(input_ids + attention_mask + token_type_ids)


class StatefulWork(Work):
    """The same, and adds to two states, in place."""

    def forward(self, input_ids, attention_mask, token_type_ids, keys, values):
        keys.add_(input_ids)
        values.add_(attention_mask)
        return self.work(input_ids + token_type_ids)


# Chosen on a 2.8 GHz Ice Lake core, one thread.
SHORT = {"width": 96, "rounds": 3, "is_vector": True}
LONG = {"width": 512, "rounds": 1, "is_vector": False}
STATEFUL_SHORT = {"width": 96, "rounds": 2, "is_vector": True}


# The state preprocessor of the guide; the annotation of the list is needed by this TorchScript.
def state_preprocessor(
    shapes_collection: List[List[List[int]]], states: List[torch.Tensor], bucket_idx_tensor: torch.Tensor
) -> List[torch.Tensor]:
    bucket_idx = torch.ops.aten.Int(bucket_idx_tensor)
    shapes = shapes_collection[bucket_idx]
    sliced_state_tensors: List[torch.Tensor] = []
    for i in range(len(shapes)):
        expected_shape = shapes[i]
        state_tensor = states[i]
        state_tensor_shape = state_tensor.shape
        for j, npos in enumerate(expected_shape):
            state_tensor_dim_length = state_tensor_shape[j]
            state_tensor = torch.ops.aten.slice(
                state_tensor, dim=j, start=state_tensor_dim_length - npos, end=state_tensor_dim_length
            )
        sliced_state_tensors.append(state_tensor)
    return sliced_state_tensors


def get_state_preprocessor():
    return torch.jit.script(state_preprocessor)


class Identity(torch.nn.Module):
    def forward(self, x):
        return x.clone()


class Probe(torch.nn.Module):
    def forward(self, x):
        return torch.cat([x[:1], x[-1:]]).repeat(ANSWER_VALUES // 2)


def guide_examples():
    return [[torch.ones(1, n, dtype=torch.int64)] * 3 for n in GUIDE_BUCKETS]


def make_guide(path, shape):
    config = BucketModelConfig(
        get_bucket_kernel, name=path.stem, input_names=GUIDE_INPUTS, output_names=["answer"]
    )
    model = Work(**shape)
    torch_neuronx.bucket_model_trace(lambda: (model, {}), guide_examples(), config).save(path)


def make_stateful(path, shape):
    config = BucketModelConfig(
        get_bucket_kernel,
        name=path.stem,
        input_names=GUIDE_INPUTS,
        output_names=["answer"],
        shared_state_buffer=[torch.zeros(1, GUIDE_BUCKETS[-1], dtype=torch.int64) for _ in range(2)],
        shared_state_buffer_preprocessor=get_state_preprocessor,
        state_names=["keys", "values"],
        state_shapes=[[[1, n], [1, n]] for n in GUIDE_BUCKETS],
    )
    model = StatefulWork(**shape)
    torch_neuronx.bucket_model_trace(lambda: (model, {}), guide_examples(), config).save(path)


def make_static(path, model, values):
    config = BucketModelConfig(PadKernel(dims=[]), name=path.stem, input_names=["x"], output_names=["y"])
    torch_neuronx.bucket_model_trace(lambda: (model, {}), [torch.ones(values)], config).save(path)


def make_bert(path, buckets):
    model = bert.bert_model("base")
    config = BucketModelConfig(
        PadKernel(dims=[1]), name=path.stem, input_names=GUIDE_INPUTS[:2], output_names=["logits"]
    )
    examples = [(torch.ones(1, n, dtype=torch.int64), torch.ones(1, n, dtype=torch.int64)) for n in buckets]
    torch_neuronx.bucket_model_trace(lambda: (model, {}), examples, config).save(path)


MAKERS = {
    "guide_20us": lambda path: make_guide(path, SHORT),
    "guide_4ms": lambda path: make_guide(path, LONG),
    "state_20us": lambda path: make_stateful(path, STATEFUL_SHORT),
    "state_4ms": lambda path: make_stateful(path, LONG),
    "identity": lambda path: make_static(path, Identity(), 16),
    **{f"probe_{n}": lambda path, n=n: make_static(path, Probe(), n // 4) for n in PROBE_BYTES},
    "bert_1": lambda path: make_bert(path, BERT_BUCKETS[-1:]),
    "bert_8": lambda path: make_bert(path, BERT_BUCKETS),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder")
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(MAKERS))
    options = parser.parse_args()
    unknown = set(options.names) - set(MAKERS)
    if unknown:
        parser.error(f"no artifact named {', '.join(sorted(unknown))}; there are {', '.join(MAKERS)}")
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in options.names or MAKERS:
        path = options.output / f"{name}.pt"
        if path.exists():
            continue
        started = time.monotonic()
        # Under another name first: what is there is whole.
        unfinished = options.output / f"unfinished-{os.getpid()}" / f"{name}.pt"
        unfinished.parent.mkdir(exist_ok=True)
        MAKERS[name](unfinished)
        unfinished.rename(path)
        unfinished.parent.rmdir()
        print(f"{path}: {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
