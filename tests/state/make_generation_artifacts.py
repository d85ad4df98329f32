#!/usr/bin/python3
"""Writes what generation_test.cc serves and compares with: a generator with random weights, twice.

  generator_left.pt, generator_right.pt    prefill and decode buckets over one cache, left- and right-aligned
  texts.json     [{"prompt": [ids], "expected": [ids]}]: how the model without buckets and cache goes on, greedily
"""

import argparse
import json
import pathlib
import sys

_PYTHON = pathlib.Path(__file__).resolve().parents[2] / "libclient" / "python"
sys.path[:0] = [str(_PYTHON), str(_PYTHON / "examples"), str(_PYTHON / "tests")]

import torch  # noqa: E402

from generator import ALIGNMENTS, generate  # noqa: E402
from generator_buckets import trace_generator  # noqa: E402
from tiny_generator import prompt_of, tiny_generator  # noqa: E402

# One that fits the small prefill bucket, and one whose continuation outgrows the small cache.
_TEXTS = ((5, 12), (100, 60))
# Of the two best logits: far more than rounding moves them.
_LEAST_MARGIN = 1e-3


def clear_text(model, tokens, count):
    """A prompt and its continuation that rounding cannot turn."""
    for seed in range(50):
        prompt = prompt_of(tokens, seed)
        expected, margin = generate(model, prompt, count)
        if margin >= _LEAST_MARGIN:
            return {"prompt": prompt[0].tolist(), "expected": [int(token) for token in expected]}
    raise SystemExit(f"no prompt of {tokens} tokens is clear of rounding")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_generator()
    for alignment in ALIGNMENTS:
        trace_generator(model, alignment).save(folder / f"generator_{alignment}.pt")
    texts = [clear_text(model, tokens, count) for tokens, count in _TEXTS]
    (folder / "texts.json").write_text(json.dumps(texts) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
