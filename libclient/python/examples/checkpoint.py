"""Stands in for `transformers` in the guide's script.

`AutoTokenizer` and `AutoModelForSequenceClassification` have the one method that the script calls. With
`use_checkpoint(DIR)` they load that local checkpoint with `transformers`; otherwise they give the package's
own tokeniser and a BERT of the same architecture with seeded weights.
"""

import functools

import bert
from bucketd.tokenizer import Tokenizer

_chosen = {"size": "base", "checkpoint": None}


def use_size(size):
    """Chooses the size of the seeded BERT: one of `bert.SIZES`."""
    _chosen.update(size=size, checkpoint=None)


def use_checkpoint(folder):
    """Chooses a local checkpoint; needs `transformers`."""
    _chosen.update(checkpoint=folder)


@functools.lru_cache(maxsize=1)
def _tokenizer():
    return Tokenizer.from_licenses()


class AutoTokenizer:
    @staticmethod
    def from_pretrained(name):
        if _chosen["checkpoint"]:
            import transformers

            return transformers.AutoTokenizer.from_pretrained(_chosen["checkpoint"], local_files_only=True)
        return _tokenizer()


class AutoModelForSequenceClassification:
    @staticmethod
    def from_pretrained(name, torchscript=True):
        if _chosen["checkpoint"]:
            import transformers

            return transformers.AutoModelForSequenceClassification.from_pretrained(
                _chosen["checkpoint"], torchscript=torchscript, local_files_only=True
            )
        return bert.bert_model(_chosen["size"])
