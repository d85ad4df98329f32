"""Sentence pairs cut from the licence texts that are on every Debian machine, at chosen token counts."""

import re

import torch

from bucketd.tokenizer import license_text

_SENTENCE_END = re.compile(r"(?<=[.;:!?])\s+")
_LEAST_LETTERS = 20


def sentences():
    """The sentences of the licence texts, in order, each on one line."""
    text = re.sub(r"\s+", " ", license_text())
    found = [sentence.strip() for sentence in _SENTENCE_END.split(text)]
    return [sentence for sentence in found if sum(map(str.isalpha, sentence)) >= _LEAST_LETTERS]


def pairs(count):
    """`count` pairs of neighbouring sentences, spread over the texts."""
    found = sentences()
    step = max(1, (len(found) - 1) // count)
    return [(found[at], found[at + 1]) for at in range(0, len(found) - 1, step)][:count]


class PairCutter:
    """Makes pairs of a chosen number of tokens: [CLS] some sentences [SEP] the next ones [SEP]."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._sentences = sentences()
        self._lengths = [len(tokenizer.tokenize(sentence)) for sentence in self._sentences]

    def cut(self, tokens, start=0):
        """(first text, second text, ids [1, tokens], mask [1, tokens]), int64, without any padding.

        `start` picks the place in the texts. Below 3 tokens, the front of the shortest pair.
        """
        at = start % len(self._sentences)
        first, at = self._take(at, tokens // 2)
        second, _ = self._take(at, tokens - tokens // 2)
        encoded = self._tokenizer.encode_plus(first, second, max_length=max(tokens, 3), truncation=True)
        ids = torch.tensor([encoded["input_ids"][:tokens]], dtype=torch.int64)
        assert ids.shape == (1, tokens)
        return first, second, ids, torch.ones_like(ids)

    def _take(self, at, tokens):
        """Sentences from `at` on that have at least `tokens` tokens, and the place after them."""
        taken, have = [], 0
        while have < max(tokens, 1):
            taken.append(self._sentences[at])
            have += self._lengths[at]
            at = (at + 1) % len(self._sentences)
        return " ".join(taken), at
