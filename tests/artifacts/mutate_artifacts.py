#!/usr/bin/python3
"""Writes artifacts that every correct loader refuses, and `mutations.json` that lists them.

Truncations and bit flips of a good artifact; the same with wrong metadata and a good seal; modules that do
not do what their metadata says; files that are no artifact at all. The good artifact should have several
inputs, buckets and crops, as `multi.pt` of make_test_artifacts.py has. Seeded: the same files every time.
"""

import argparse
import json
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "libclient" / "python"))

import torch  # noqa: E402

import file_mutations  # noqa: E402
import metadata_mutations  # noqa: E402
import module_mutations  # noqa: E402

_SEED = 20230917
_LEAST_OF_DAMAGE = 60


class MutationFolder:
    """Writes the files and keeps the list of them."""

    def __init__(self, folder):
        self.entries = []
        self._folder = folder

    def add(self, kind, content):
        """`content`: the bytes of the file."""
        name = f"{len(self.entries):03d}_{kind}.pt"
        (self._folder / name).write_bytes(content)
        self.entries.append({"file": name, "kind": kind, "expect": "refused"})

    def finish(self):
        text = "[\n" + ",\n".join(json.dumps(entry) for entry in self.entries) + "\n]\n"
        (self._folder / "mutations.json").write_text(text)


def damage(good, count):
    """`count` (kind, content): truncations all over the file, and single flipped bits."""
    generator = random.Random(_SEED)
    truncations = count // 3
    step = len(good) / truncations
    lengths = {min(len(good) - 1, int(number * step) + 1) for number in range(truncations - 3)}
    lengths |= {len(good) - 1, len(good) - 64, len(good) - 85}
    for length in sorted(lengths):
        yield "truncated", good[:length]
    for at in sorted(generator.sample(range(len(good)), count - len(lengths))):
        flipped = bytearray(good)
        flipped[at] ^= 1 << generator.randrange(8)
        yield "bit_flipped", bytes(flipped)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder")
    parser.add_argument("--from", dest="source", type=pathlib.Path, required=True, help="a good artifact")
    parser.add_argument("--count", type=int, default=300, help="least number of files (default 300)")
    options = parser.parse_args()
    started = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    folder = MutationFolder(options.output)
    good = options.source.read_bytes()
    for mutations in (metadata_mutations, module_mutations, file_mutations):
        for kind, content in mutations.make(options.source):
            folder.add(kind, content)
    remaining = max(options.count - len(folder.entries), _LEAST_OF_DAMAGE)
    for kind, content in damage(good, remaining):
        folder.add(kind, content)
    folder.finish()
    print(f"{len(folder.entries)} mutated artifacts in {options.output}, {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
