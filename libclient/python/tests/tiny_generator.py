"""A generator with random weights, for tests that need no sense in what it says."""

import functools

import torch

import source_folders

from generator import Generator, GeneratorSize

SIZE = GeneratorSize(layers=2, width=32, heads=2, vocabulary=128)


@functools.lru_cache(maxsize=1)
def tiny_generator():
    """Random weights, so wide that it does not repeat itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Generator(SIZE).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


def prompt_of(tokens, seed=0):
    return torch.randint(SIZE.vocabulary, (1, tokens), generator=torch.Generator().manual_seed(seed))
