#!/usr/bin/python3
"""Trains the generator on the licence texts that every Debian machine has: about a minute on one core.

    PYTHONPATH=libclient/python /usr/bin/python3 libclient/python/examples/train_generator.py -o generator-weights.pt

The weights are a function of the seed, the texts and the machine's arithmetic. The file holds size, vocabulary
and weights (`torch.save`).
"""

import argparse
import dataclasses
import math
import pathlib
import time

import torch
from torch import nn

from generator import Generator, GeneratorSize, generate
from text_pieces import Pieces, training_text

STEPS = 750
_BATCH = 6
_WINDOW = 128
_WARM_UP = 20
_LEARNING_RATE = 3e-3


def train(size=GeneratorSize(), steps=STEPS, seed=0, report=print):
    """(a trained `Generator`, its `Pieces`)."""
    pieces = Pieces.learn(training_text(), size.vocabulary)
    ids = torch.tensor(pieces.encode(training_text()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Generator(size)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.98))
        for step in range(steps):
            starts = torch.randint(len(ids) - _WINDOW, (_BATCH,))
            windows = torch.stack([ids[start : start + _WINDOW + 1] for start in starts.tolist()])
            loss = nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
            optimizer.param_groups[0]["lr"] = _learning_rate(step, steps)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step % 100 == 0 or step == steps - 1:
                report(f"  step {step} of {steps}, loss {float(loss):.2f}")
    return model.eval().requires_grad_(False), pieces


def _learning_rate(step, steps):
    if step < _WARM_UP:
        return _LEARNING_RATE * (step + 1) / _WARM_UP
    return _LEARNING_RATE * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))


def save(path, model, pieces):
    content = {"size": dataclasses.asdict(model.size), "vocabulary": pieces.vocabulary, "weights": model.state_dict()}
    torch.save(content, path)


def load(path):
    """(`Generator`, `Pieces`) as `save` wrote them."""
    content = torch.load(path)
    model = Generator(GeneratorSize(**content["size"]))
    model.load_state_dict(content["weights"])
    return model.eval().requires_grad_(False), Pieces(content["vocabulary"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="file")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    model, pieces = train(steps=options.steps, report=lambda line: print(line, flush=True))
    save(options.output, model, pieces)
    print(f"{options.output}: trained in {time.monotonic() - started:.1f} s; it goes on from 'The licenses':")
    ids, _ = generate(model, torch.tensor([pieces.encode("The licenses")]), 60)
    print(pieces.decode(ids).strip())


if __name__ == "__main__":
    main()
