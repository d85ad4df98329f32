"""Text as pieces whose concatenation is the text: what a program without a tokeniser needs to print tokens.

A piece is a frequent word with the space before it, or one printable character; a word that is no piece is
spelled by its longest pieces. Text is ASCII with single spaces.
"""

import collections
import re

from bucketd.tokenizer import LICENSES

# Little text, seen often, makes a small model fluent within a minute.
_TEXTS = ("Apache-2.0", "GPL-2", "GPL-3")
_WORDS = re.compile(r" ?[A-Za-z]+| ?[^\sA-Za-z]")
_CHARACTERS = [chr(code) for code in range(32, 127)]


class Pieces:
    """Turns text into piece ids and back. `vocabulary` lists the pieces in id order."""

    def __init__(self, vocabulary):
        self.vocabulary = list(vocabulary)
        self._ids = {piece: number for number, piece in enumerate(self.vocabulary)}
        self._longest = max(map(len, self.vocabulary))

    @classmethod
    def learn(cls, text, count):
        """`count` pieces: the printable characters, then the most frequent words; ties go by the alphabet."""
        words = collections.Counter(_WORDS.findall(normalise(text)))
        ranked = sorted((-times, word) for word, times in words.items() if len(word) > 1)
        return cls(_CHARACTERS + [word for _, word in ranked[: count - len(_CHARACTERS)]])

    def encode(self, text):
        """The ids of `text`, normalised; `ValueError` for a character that is no piece."""
        ids = []
        for word in _WORDS.findall(normalise(text)):
            start = 0
            while start < len(word):
                ends = range(min(len(word), start + self._longest), start, -1)
                end = next((end for end in ends if word[start:end] in self._ids), None)
                if end is None:
                    raise ValueError(f"the vocabulary has no piece for {word[start]!r}")
                ids.append(self._ids[word[start:end]])
                start = end
        return ids

    def decode(self, ids):
        return "".join(self.vocabulary[int(number)] for number in ids)


def normalise(text):
    """`text` with runs of white space as one space, and without what is not ASCII."""
    return re.sub(r"\s+", " ", text.encode("ascii", "ignore").decode()).strip()


def training_text():
    """Three of the licences that are on every Debian machine, without their rulers."""
    texts = ((LICENSES / name).read_text(encoding="utf-8", errors="replace") for name in _TEXTS)
    return normalise(re.sub(r"[-=_*]{3,}", " ", "\n".join(texts)))
