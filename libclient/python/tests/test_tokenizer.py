import pathlib
import tempfile
import time
import unittest

import torch

from bucketd import npy
from bucketd.tokenizer import SPECIAL_TOKENS, Tokenizer, license_text

_SENTENCE_0 = "The company HuggingFace is based in New York City"
_SENTENCE_2 = "HuggingFace's headquarters are situated in Manhattan"


class Licences(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        started = time.monotonic()
        cls.tokenizer = Tokenizer.from_licenses()
        cls.seconds = time.monotonic() - started

    def test_are_learned_within_seconds_and_always_alike(self):
        self.assertLess(self.seconds, 20)
        self.assertEqual(Tokenizer.from_licenses().vocabulary, self.tokenizer.vocabulary)
        self.assertEqual(self.tokenizer.vocab_size, 4096)

    def test_give_whole_words_for_what_they_often_say(self):
        self.assertEqual(self.tokenizer.tokenize("the License"), ["the", "License"])

    def test_decode_to_the_words_they_came_from(self):
        encoded = self.tokenizer.encode_plus(_SENTENCE_0)
        self.assertEqual(self.tokenizer.decode(encoded["input_ids"], skip_special_tokens=True), _SENTENCE_0)
        self.assertEqual(self.tokenizer.decode(encoded["input_ids"]), f"[CLS] {_SENTENCE_0} [SEP]")

    def test_are_covered_by_their_own_vocabulary(self):
        self.assertNotIn("[UNK]", self.tokenizer.tokenize(license_text()))

    def test_pair_has_types_and_separators(self):
        encoded = self.tokenizer.encode_plus(_SENTENCE_0, _SENTENCE_2)
        tokens = [self.tokenizer.vocabulary[number] for number in encoded["input_ids"]]
        first = len(self.tokenizer.tokenize(_SENTENCE_0)) + 2
        self.assertEqual((tokens[0], tokens[first - 1], tokens[-1]), ("[CLS]", "[SEP]", "[SEP]"))
        self.assertEqual(tokens.count("[SEP]"), 2)
        self.assertEqual(encoded["token_type_ids"], [0] * first + [1] * (len(tokens) - first))
        self.assertEqual(encoded["attention_mask"], [1] * len(tokens))

    def test_encode_as_the_guide_does(self):
        encoded = self.tokenizer.encode_plus(
            _SENTENCE_0, _SENTENCE_2, max_length=128, padding="max_length", truncation=True, return_tensors="pt"
        )
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            self.assertEqual((encoded[name].dtype, list(encoded[name].shape)), (torch.int64, [1, 128]))
        real = int(encoded["attention_mask"].sum())
        self.assertEqual(encoded["attention_mask"][0].tolist(), [1] * real + [0] * (128 - real))
        self.assertEqual(set(encoded["input_ids"][0, real:].tolist()), {self.tokenizer.pad_token_id})

    def test_truncation_takes_from_the_longer(self):
        encoded = self.tokenizer.encode_plus("a", _SENTENCE_2 * 10, max_length=12, truncation=True)
        self.assertEqual(len(encoded["input_ids"]), 12)
        self.assertEqual(encoded["token_type_ids"], [0] * 3 + [1] * 9)

    def test_refuse_contradicting_arguments(self):
        for arguments in (
            {"truncation": True},
            {"padding": "max_length"},
            {"padding": "sideways"},
            {"return_tensors": "tf"},
            {"max_length": 1, "truncation": True},
        ):
            with self.subTest(arguments), self.assertRaises(ValueError):
                self.tokenizer.encode_plus("text", **arguments)

    def test_give_unknown_for_what_no_token_covers(self):
        self.assertEqual(self.tokenizer.tokenize("\u00e9"), ["[UNK]"])
        self.assertEqual(self.tokenizer.tokenize("a" * 101), ["[UNK]"])
        self.assertEqual(self.tokenizer.tokenize(""), [])


class Training(unittest.TestCase):
    def test_merges_the_most_frequent_first(self):
        vocabulary = Tokenizer.train("abab abab cd", vocab_size=10_000).vocabulary
        merged = [token for token in vocabulary if len(token.removeprefix("##")) > 1 and token not in SPECIAL_TOKENS]
        self.assertIn("abab", merged)
        self.assertIn("cd", merged)
        self.assertLess(merged.index("abab"), merged.index("cd"))


class NpyFile(unittest.TestCase):
    def test_is_read_as_it_was_written(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x.npy"
            for tensor in (
                torch.arange(6).reshape(2, 3),
                torch.tensor(1.5),
                torch.zeros(0, 3),
                torch.ones(2).half(),
                torch.tensor([True, False]),
                torch.arange(6).reshape(2, 3).t(),
                torch.ones(3, dtype=torch.uint8),
            ):
                npy.save(path, tensor)
                loaded = npy.load(path)
                self.assertEqual(loaded.dtype, tensor.dtype)
                self.assertTrue(torch.equal(loaded, tensor))

    def test_is_what_numpy_reads(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("NumPy is not installed, and optional")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x.npy"
            for dtype in (
                torch.bool,
                torch.uint8,
                torch.int8,
                torch.int16,
                torch.int32,
                torch.int64,
                torch.float16,
                torch.float32,
                torch.float64,
            ):
                tensor = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
                npy.save(path, tensor)
                loaded = numpy.load(path, allow_pickle=False)
                self.assertEqual(loaded.tolist(), tensor.tolist())
                numpy.save(path, loaded)
                self.assertTrue(torch.equal(npy.load(path), tensor))

    def test_of_bfloat16_is_refused(self):
        with self.assertRaises(TypeError):
            npy.save("/nowhere", torch.ones(1, dtype=torch.bfloat16))


if __name__ == "__main__":
    unittest.main()
