"""A small decoder-only transformer, and the same with a KV cache, in plain torch.

Pre-norm layers, attention biased by distance (ALiBi: Press et al. 2021, so that a key in the cache does not
depend on where the cache begins), GELU, output weights tied to the embedding.

`Generator` has no cache: it is trained, and says what is right. `CachedGenerator` shares its weights and
gives the same for new tokens only, with the keys and values of earlier ones in two states.
"""

import dataclasses
import math

import torch
from torch import nn

# Stands for "no token" in padded ids: 0 is a real one.
PADDING_ID = -1
ALIGNMENTS = ("left", "right")
UPDATES = ("in_place", "functional")


@dataclasses.dataclass(frozen=True)
class GeneratorSize:
    """Layer count, width, attention heads (a power of two) and vocabulary of a generator."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    vocabulary: int = 1024

    @property
    def head_width(self):
        return self.width // self.heads


class Layer(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.heads, self.head_width = size.heads, size.head_width
        self.attention_norm = nn.LayerNorm(size.width)
        self.query_key_value = nn.Linear(size.width, 3 * size.width)
        self.attention_output = nn.Linear(size.width, size.width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(size.width),
            nn.Linear(size.width, 4 * size.width),
            nn.GELU(),
            nn.Linear(4 * size.width, size.width),
        )

    def project(self, hidden):
        """Query, key and value, [batch, heads, tokens, head_width] each, of hidden [batch, tokens, width]."""
        parts = self.query_key_value(self.attention_norm(hidden)).unflatten(2, (3, self.heads, self.head_width))
        return parts.permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, hidden, query, keys, values, bias):
        """The layer's result; `bias` is [1, heads, queries, keys]."""
        scores = query @ keys.transpose(-1, -2) / math.sqrt(self.head_width) + bias
        context = torch.softmax(scores, dim=-1) @ values
        hidden = hidden + self.attention_output(context.transpose(1, 2).flatten(2))
        return hidden + self.feed_forward(hidden)


class Generator(nn.Module):
    """Logits [batch, tokens, vocabulary] of the token after each of `input_ids` [batch, tokens] (int64)."""

    def __init__(self, size=GeneratorSize()):
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(size.vocabulary, size.width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList([Layer(size) for _ in range(size.layers)])
        self.norm = nn.LayerNorm(size.width)
        # Head 0 sees hardly more than the token before; the others ever further.
        slopes = torch.tensor([2.0 ** (1 - 8.0 * head / size.heads) for head in range(size.heads)])
        self.register_buffer("slopes", slopes.reshape(1, -1, 1, 1), persistent=False)

    def forward(self, input_ids):
        positions = torch.arange(input_ids.shape[1])
        bias = self.bias(positions, positions, positions[None, :] <= positions[:, None])
        hidden = self.embedding(input_ids)
        for layer in self.layers:
            query, key, value = layer.project(hidden)
            hidden = layer.attend(hidden, query, key, value, bias)
        return self.logits(hidden)

    def bias(self, query_positions, key_positions, allowed):
        """[1, heads, queries, keys]: minus slope * distance where `allowed` [queries, keys], else very negative."""
        distances = (query_positions[:, None] - key_positions[None, :]).to(torch.float32)
        return (-self.slopes * distances).masked_fill(~allowed, torch.finfo(torch.float32).min)

    def logits(self, hidden):
        return self.norm(hidden) @ self.embedding.weight.t()


class CachedGenerator(nn.Module):
    """A bucket's model: at most T new tokens go in, the cache holds the others, V with the new ones.

    forward(input_ids, attention_mask, keys, values):
      input_ids: int64 [1, T], new tokens; `PADDING_ID` where there is none.
      attention_mask: int64 [1, V], ones for all tokens so far, the new ones included: their number counts.
      keys, values: float32 [layers, heads, V, head_width], the bucket's view of the cache.
    Gives (next_ids int64 [1, T], logits float32 [1, T, vocabulary]), and with `update` "functional" the new
    keys and values; with "in_place" these are written into the views.

    alignment "left": token p lies at position p of the cache, and new tokens are padded at their right.
    "right": the newest token lies at the end, everything moves towards the start, padding is at the left.
    """

    def __init__(self, generator, new_tokens, cache_view, alignment="left", update="in_place"):
        super().__init__()
        self.generator = generator
        self.new_tokens, self.cache_view = new_tokens, cache_view
        self.aligned = LeftAligned if alignment == "left" else RightAligned
        self.update = update

    def forward(self, input_ids, attention_mask, keys, values):
        generator = self.generator
        count = (input_ids != PADDING_ID).sum()
        place = self.aligned(count, attention_mask.sum(), self.new_tokens, self.cache_view)
        bias = generator.bias(place.query_positions, place.key_positions, place.allowed)
        hidden = generator.embedding(input_ids.clamp(min=0))
        all_keys, all_values = [], []
        for number, layer in enumerate(generator.layers):
            query, key, value = layer.project(hidden)
            update = place.write if self.update == "in_place" else place.updated
            all_keys.append(update(keys[number], key[0]))
            all_values.append(update(values[number], value[0]))
            hidden = layer.attend(hidden, query, all_keys[-1][None], all_values[-1][None], bias)
        logits = generator.logits(hidden)
        results = (logits.argmax(-1), logits)
        return results if self.update == "in_place" else (*results, torch.stack(all_keys), torch.stack(all_values))


class LeftAligned:
    """Where `count` new ones of `length` tokens go in a cache that begins with token 0.

    `new` (T) and `size` (V) are the bucket's numbers, `count` and `length` tensors.
    """

    def __init__(self, count, length, new, size):
        self.new = new
        start = (length - count).clamp(min=0)
        steps = torch.arange(new)
        self.query_positions = start + steps
        self.key_positions = torch.arange(size)
        self.allowed = self.key_positions[None, :] <= self.query_positions[:, None]
        # T positions that hold all new tokens and lie within the view even where padding would not.
        self._positions = start.clamp(max=size - new) + steps
        source = self._positions - start
        self._is_new = ((source >= 0) & (source < count))[None, :, None]
        self._source = source.clamp(0, new - 1)

    def write(self, cache, new):
        """Writes `new` [heads, T, head_width] into `cache` [heads, V, head_width], padding left out."""
        return cache.index_copy_(1, self._positions, self._rows(cache, new))

    def updated(self, cache, new):
        """As `write`, into a copy."""
        return cache.index_copy(1, self._positions, self._rows(cache, new))

    def _rows(self, cache, new):
        if self.new == 1:  # Never padding.
            return new
        old = cache.index_select(1, self._positions)
        return torch.where(self._is_new, new.index_select(1, self._source), old)


class RightAligned:
    """Where `count` new ones of `length` tokens go in a cache that ends with the newest token."""

    def __init__(self, count, length, new, size):
        self.new = new
        self.key_positions = torch.arange(size)
        self.query_positions = torch.arange(size - new, size)
        present = self.key_positions >= size - length
        self.allowed = present[None, :] & (self.key_positions[None, :] <= self.query_positions[:, None])
        self._is_new = (self.key_positions >= size - count)[None, :, None]
        self._from_new = (self.key_positions - (size - new)).clamp(min=0)
        self._from_old = (self.key_positions + count).clamp(max=size - 1)

    def write(self, cache, new):
        """Moves `cache` [heads, V, head_width] towards its start, and `new` [heads, T, head_width] to its end."""
        return cache.copy_(self.updated(cache, new))

    def updated(self, cache, new):
        """As `write`, into a copy."""
        if self.new == 1:  # Never padding.
            return torch.cat([cache[:, 1:], new], dim=1)
        return torch.where(self._is_new, new.index_select(1, self._from_new), cache.index_select(1, self._from_old))


def generate(model, prompt, count):
    """(token ids [count] that follow `prompt` [1, tokens], least margin): always the likeliest, without a cache.

    The least margin is the smallest difference between the two best logits: below it, rounding cannot turn
    the choice.
    """
    ids, least_margin = prompt, math.inf
    with torch.no_grad():
        for _ in range(count):
            best = model(ids)[0, -1].topk(2)
            least_margin = min(least_margin, float(best.values[0] - best.values[1]))
            ids = torch.cat([ids, best.indices[:1][None]], dim=1)
    return ids[0, prompt.shape[1] :], least_margin


def generate_with_cache(bucketed, prompt, count, alignment="left"):
    """Token ids [count] that follow `prompt` [1, tokens], from a traced bucket model: what a client does, too.

    One request for the prompt, then one for each token; the mask says how many tokens there are by now.
    """
    new, length, found = prompt, prompt.shape[1], []
    while len(found) < count:
        next_ids, _ = bucketed(new, torch.ones(1, length, dtype=torch.int64))
        # In plain TorchScript nobody cuts the padding off the outputs.
        last = new.shape[1] - 1 if alignment == "left" else next_ids.shape[1] - 1
        new, length = next_ids[:, last : last + 1], length + 1
        found.append(int(new))
    return torch.tensor(found)
