"""Small models and helpers that several tests use."""

import pathlib
import tempfile

import torch

from bucketd import torch_neuronx
from bucketd.torch_neuronx import BucketModelConfig, PadKernel


class AddOne(torch.nn.Module):
    def forward(self, x):
        return x + 1


class Encoder(torch.nn.Module):
    """Token embeddings and a linear layer; gives ([1, tokens, width], [1])."""

    def __init__(self, width=8, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(100, width)
        self.linear = torch.nn.Linear(width, width)

    def forward(self, input_ids, attention_mask):
        hidden = self.linear(self.embedding(input_ids)) * attention_mask.unsqueeze(2)
        return hidden, attention_mask.sum(1)


def token_examples(*lengths, inputs=2):
    """For each length, `inputs` int64 tensors of shape [1, length]."""
    return [tuple(torch.ones(1, length, dtype=torch.int64) for _ in range(inputs)) for length in lengths]


def trace(model, examples, kernel=None, aliases=None, **options):
    """The bucket model of one model object."""
    config = BucketModelConfig(kernel or PadKernel(), **options)
    return torch_neuronx.bucket_model_trace(lambda: (model, aliases or {}), examples, config)


def save_and_load(traced):
    """What plain `torch.jit.load` makes of the saved artifact."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.pt"
        torch.jit.save(traced, path)
        return torch.jit.load(str(path))
