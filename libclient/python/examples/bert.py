"""BERT for sequence classification, in plain torch: the real architecture with seeded random weights.

Devlin et al. 2018: token, position and segment embeddings; encoder layers with layer normalisation after
each residual; GELU; a pooler over the first token; a linear classifier. The attention mask is additive, so
that padding does not change the answer. `bert_model("small")` needs no checkpoint and no `transformers`.
"""

import dataclasses
import math

import torch
from torch import nn

LABELS = 2


@dataclasses.dataclass(frozen=True)
class BertSize:
    """Layer count, width, attention heads and feed-forward width of a BERT."""

    layers: int
    width: int
    heads: int
    feed_forward: int
    vocabulary: int = 4096
    positions: int = 512


SIZES = {
    "tiny": BertSize(layers=1, width=32, heads=2, feed_forward=64),
    "small": BertSize(layers=4, width=256, heads=4, feed_forward=1024),
    "base": BertSize(layers=12, width=768, heads=12, feed_forward=3072),
}


class Embeddings(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.word_embeddings = nn.Embedding(size.vocabulary, size.width)
        self.position_embeddings = nn.Embedding(size.positions, size.width)
        self.token_type_embeddings = nn.Embedding(2, size.width)
        self.norm = nn.LayerNorm(size.width, eps=1e-12)

    def forward(self, input_ids, token_type_ids):
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        embedded = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        return self.norm(embedded + self.token_type_embeddings(token_type_ids))


class SelfAttention(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.heads = size.heads
        self.head_width = size.width // size.heads
        self.query = nn.Linear(size.width, size.width)
        self.key = nn.Linear(size.width, size.width)
        self.value = nn.Linear(size.width, size.width)
        self.output = nn.Linear(size.width, size.width)

    def forward(self, hidden, additive_mask):
        """`hidden` is [batch, tokens, width], `additive_mask` [batch, 1, 1, tokens]: 0, or very negative."""
        query, key, value = (self._by_head(layer(hidden)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.head_width) + additive_mask
        context = torch.softmax(scores, dim=-1) @ value
        return self.output(context.transpose(1, 2).flatten(2))

    def _by_head(self, tensor):
        return tensor.unflatten(2, (self.heads, self.head_width)).transpose(1, 2)


class Layer(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.attention = SelfAttention(size)
        self.attention_norm = nn.LayerNorm(size.width, eps=1e-12)
        self.intermediate = nn.Linear(size.width, size.feed_forward)
        self.output = nn.Linear(size.feed_forward, size.width)
        self.output_norm = nn.LayerNorm(size.width, eps=1e-12)

    def forward(self, hidden, additive_mask):
        hidden = self.attention_norm(hidden + self.attention(hidden, additive_mask))
        return self.output_norm(hidden + self.output(nn.functional.gelu(self.intermediate(hidden))))


class BertForSequenceClassification(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.embeddings = Embeddings(size)
        self.layers = nn.ModuleList([Layer(size) for _ in range(size.layers)])
        self.pooler = nn.Linear(size.width, size.width)
        self.classifier = nn.Linear(size.width, LABELS)

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        """Integer inputs of shape [batch, tokens]; gives (logits [batch, 2],)."""
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        hidden = self.embeddings(input_ids, token_type_ids)
        ignored = 1.0 - attention_mask[:, None, None, :].to(hidden.dtype)
        additive_mask = ignored * torch.finfo(hidden.dtype).min
        for layer in self.layers:
            hidden = layer(hidden, additive_mask)
        pooled = torch.tanh(self.pooler(hidden[:, 0]))
        return (self.classifier(pooled),)


def bert_model(size="small", seed=0):
    """A BERT of one of `SIZES` with weights drawn from `seed`: the same values on every call.

    The weights are drawn wider than for training, so that logits differ from text to text and a padding
    mistake shows in them.
    """
    shape = SIZES[size]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(shape)
        deviation = 1.5 / math.sqrt(shape.width)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=deviation)
        model.eval().requires_grad_(False)
        _balance(model, shape)
    return model


def _balance(model, shape):
    """Sets the classifier's bias so that random texts fall into both classes.

    Rounded, so that the bias does not depend on the number of threads that computed it.
    """
    texts = torch.randint(4, shape.vocabulary, (8, 64))
    with torch.no_grad():
        logits = model(texts, torch.ones_like(texts))[0].double().mean(0)
    model.classifier.bias.copy_(-(logits * 100).round() / 100)
