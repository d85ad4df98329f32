"""A small real tokeniser: word pieces, learned from a text that every Debian machine has.

    tokenizer = Tokenizer.from_licenses()
    tokens = tokenizer.encode_plus("One sentence", "and another", max_length=128, padding="max_length",
                                   truncation=True, return_tensors="pt")

Pieces are learned by byte-pair merging (Sennrich et al. 2016) and applied longest match first, as WordPiece
does; the vocabulary is a function of the text alone. Case is kept. Thread safety: a tokeniser does not
change after construction, apart from a cache whose entries are each written once.
"""

import collections
import heapq
import pathlib
import re

LICENSES = pathlib.Path("/usr/share/common-licenses")
LICENSE_NAMES = ("Apache-2.0", "Artistic", "GFDL-1.3", "GPL-2", "GPL-3", "LGPL-2.1", "MPL-2.0")

PAD, UNKNOWN, CLASS, SEPARATOR = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL_TOKENS = (PAD, UNKNOWN, CLASS, SEPARATOR)

# A piece that continues a word starts with this.
_CONTINUATION = "##"
_WORDS = re.compile(r"[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]")
_PRINTABLE = [chr(code) for code in range(33, 127)]
# A longer word is one unknown token: bounds the work that one word costs.
_MAX_WORD = 100


class Tokenizer:
    """Turns text into token ids and back. `vocabulary` lists the tokens in id order."""

    def __init__(self, vocabulary):
        self.vocabulary = list(vocabulary)
        self._ids = {token: number for number, token in enumerate(self.vocabulary)}
        if len(self._ids) != len(self.vocabulary):
            raise ValueError("the vocabulary has a token twice")
        self.pad_token_id, self.unk_token_id, self.cls_token_id, self.sep_token_id = (
            self._ids[token] for token in SPECIAL_TOKENS
        )
        self._longest = max(len(token.removeprefix(_CONTINUATION)) for token in self.vocabulary)
        self._pieces_of = {}

    @property
    def vocab_size(self):
        return len(self.vocabulary)

    @classmethod
    def train(cls, text, vocab_size=4096):
        """Learns at most `vocab_size` tokens from `text`: all printable ASCII, then the most frequent merges."""
        symbols = list(_PRINTABLE) + [_CONTINUATION + letter for letter in _PRINTABLE if letter.isalpha()]
        words = collections.Counter(word for word in _WORDS.findall(text) if len(word) <= _MAX_WORD and word.isascii())
        merged = _learn_merges(words, vocab_size - len(SPECIAL_TOKENS) - len(symbols))
        return cls([*SPECIAL_TOKENS, *symbols, *merged])

    @classmethod
    def from_licenses(cls, vocab_size=4096):
        """Learns from the licence texts that Debian's package base-files brings; about a second."""
        return cls.train(license_text(), vocab_size)

    def tokenize(self, text):
        """The tokens of `text`, without special ones."""
        return [self.vocabulary[number] for number in self._encode(text)]

    def encode_plus(
        self,
        text,
        text_pair=None,
        *,
        add_special_tokens=True,
        max_length=None,
        padding=False,
        truncation=False,
        return_tensors=None,
    ):
        """`input_ids`, `token_type_ids` and `attention_mask` of a sentence or a pair, as `transformers` has it.

        padding: False, or "max_length" for zeros up to `max_length`. truncation: True takes tokens off the
        longer of the two until `max_length` is met. return_tensors: None gives lists, "pt" int64 tensors of
        shape [1, tokens]. `ValueError` when the arguments contradict each other.
        """
        if padding not in (False, True, "longest", "do_not_pad", "max_length"):
            raise ValueError(f"padding {padding!r} is not supported")
        if truncation not in (False, True, "longest_first", "do_not_truncate"):
            raise ValueError(f"truncation {truncation!r} is not supported")
        if max_length is None and (padding == "max_length" or truncation in (True, "longest_first")):
            raise ValueError("padding to and truncation at max_length need a max_length")
        first = self._encode(text)
        second = None if text_pair is None else self._encode(text_pair)
        special = (2 if second is None else 3) if add_special_tokens else 0
        if truncation in (True, "longest_first"):
            if max_length < special:
                raise ValueError(f"max_length {max_length} leaves no room for {special} special tokens")
            first, second = _truncate(first, second, max_length - special)
        ids, types = self._join(first, second, add_special_tokens)
        mask = [1] * len(ids)
        if padding == "max_length":
            missing = max(0, max_length - len(ids))
            ids, types, mask = ids + [self.pad_token_id] * missing, types + [0] * missing, mask + [0] * missing
        encoded = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        if return_tensors is None:
            return encoded
        if return_tensors != "pt":
            raise ValueError(f"return_tensors {return_tensors!r} is not supported, only 'pt' is")
        import torch

        return {name: torch.tensor([values], dtype=torch.int64) for name, values in encoded.items()}

    def decode(self, token_ids, skip_special_tokens=False):
        """The text of `token_ids` (a list or a rank-1 tensor), words separated by one space."""
        words = []
        for number in token_ids:
            token = self.vocabulary[int(number)]
            if token in SPECIAL_TOKENS and skip_special_tokens:
                continue
            if token.startswith(_CONTINUATION) and len(token) > len(_CONTINUATION) and words:
                words[-1] += token[len(_CONTINUATION) :]
            else:
                words.append(token)
        return " ".join(words)

    def _join(self, first, second, add_special_tokens):
        head, tail = ([self.cls_token_id], [self.sep_token_id]) if add_special_tokens else ([], [])
        ids = head + first + tail
        types = [0] * len(ids)
        if second is not None:
            ids, types = ids + second + tail, types + [1] * len(second + tail)
        return ids, types

    def _encode(self, text):
        ids = []
        for word in _WORDS.findall(text):
            pieces = self._pieces_of.get(word)
            if pieces is None:
                pieces = self._pieces_of.setdefault(word, self._split(word))
            ids += pieces
        return ids

    def _split(self, word):
        """Longest match first; a word with a part that no token covers is one unknown token."""
        if len(word) > _MAX_WORD:
            return [self.unk_token_id]
        pieces, start = [], 0
        while start < len(word):
            prefix = _CONTINUATION if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                number = self._ids.get(prefix + word[start:end])
                if number is not None:
                    pieces.append(number)
                    start = end
                    break
            else:
                return [self.unk_token_id]
        return pieces


def license_text():
    """The licence texts that are on every Debian machine, one after the other."""
    return "\n".join((LICENSES / name).read_text(encoding="utf-8", errors="replace") for name in LICENSE_NAMES)


def _truncate(first, second, room):
    first, second = list(first), None if second is None else list(second)
    if second is None:
        return first[:room], None
    excess = max(0, len(first) + len(second) - room)
    for _ in range(excess):
        (first if len(first) > len(second) else second).pop()
    return first, second


def _learn_merges(words, count):
    """The `count` pieces that merging the most frequent neighbours makes; ties go by the alphabet."""
    order = sorted(words)
    splits = [[letter if at == 0 else _CONTINUATION + letter for at, letter in enumerate(word)] for word in order]
    frequency = [words[word] for word in order]
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for index, split in enumerate(splits):
        for pair in zip(split, split[1:]):
            pairs[pair] += frequency[index]
            where[pair].add(index)
    heap = [(-times, pair) for pair, times in pairs.items()]
    heapq.heapify(heap)
    merged, known = [], set()
    while heap and len(merged) < count:
        times, pair = heapq.heappop(heap)
        if pairs[pair] != -times:
            continue  # An entry that a later count replaced.
        if times == 0:
            break
        piece = pair[0] + pair[1].removeprefix(_CONTINUATION)
        if piece not in known:
            known.add(piece)
            merged.append(piece)
        changed = set()
        for index in sorted(where.pop(pair)):
            split = splits[index]
            for old in zip(split, split[1:]):
                pairs[old] -= frequency[index]
                changed.add(old)
            splits[index] = split = _merge(split, pair, piece)
            for new in zip(split, split[1:]):
                pairs[new] += frequency[index]
                where[new].add(index)
                changed.add(new)
        for other in changed:
            if pairs[other] > 0 and other != pair:
                heapq.heappush(heap, (-pairs[other], other))
    return merged


def _merge(split, pair, piece):
    result, at = [], 0
    while at < len(split):
        if at + 1 < len(split) and (split[at], split[at + 1]) == pair:
            result.append(piece)
            at += 2
        else:
            result.append(split[at])
            at += 1
    return result
