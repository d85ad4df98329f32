import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import torch

import source_folders

import bert
import sentence_pairs
from bucketd import artifact, npy
from bucketd.tokenizer import Tokenizer

_LENGTHS = "1-8,122,126-131,157,158,440-444,509-512"
# What the demo tolerates, too.
_TOLERANCE = 1e-4


def run_example(name, *arguments, **environment):
    """Standard output of an example script; its failure fails the test with what it said."""
    command = [sys.executable, str(source_folders.EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise AssertionError(f"{name} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


class Bert(unittest.TestCase):
    def test_sizes_have_the_published_shapes(self):
        with torch.no_grad():
            base = bert.BertForSequenceClassification(bert.SIZES["base"])
        # bert-base without its 28996-word vocabulary: 108.3 million parameters, 22.3 of them words.
        words = base.embeddings.word_embeddings.weight.numel()
        self.assertEqual(sum(parameter.numel() for parameter in base.parameters()) - words, 86_042_882)

    def test_weights_are_the_same_every_time_and_leave_the_generator_alone(self):
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        first, second = bert.bert_model("tiny"), bert.bert_model("tiny")
        self.assertTrue(torch.equal(torch.random.get_rng_state(), before))
        for left, right in zip(first.parameters(), second.parameters()):
            self.assertTrue(torch.equal(left, right))

    def test_padding_does_not_change_the_answer_but_attending_to_it_does(self):
        model = bert.bert_model("tiny")
        ids, mask = torch.randint(4, 4096, (1, 50)), torch.ones(1, 50, dtype=torch.int64)
        longer, zeros, ones = (
            torch.cat([t, pad], 1)
            for t, pad in (
                (ids, torch.zeros(1, 78, dtype=torch.int64)),
                (mask, torch.zeros(1, 78, dtype=torch.int64)),
                (mask, torch.ones(1, 78, dtype=torch.int64)),
            )
        )
        expected = model(ids, mask)[0]
        torch.testing.assert_close(model(longer, zeros)[0], expected, atol=1e-5, rtol=0)
        self.assertGreater(float((model(longer, ones)[0] - expected).abs().max()), 1e-3)


class SentencePairs(unittest.TestCase):
    def test_have_exactly_the_length_asked_for(self):
        cutter = sentence_pairs.PairCutter(Tokenizer.from_licenses())
        for tokens in (1, 2, 3, 4, 5, 17, 128, 512):
            _, _, ids, mask = cutter.cut(tokens, start=tokens)
            self.assertEqual(list(ids.shape), [1, tokens])
            self.assertTrue(bool((mask == 1).all()))
            self.assertFalse(bool((ids == 0).any()), "no padding")

    def test_are_a_few_hundred(self):
        pairs = sentence_pairs.pairs(300)
        self.assertEqual(len(set(pairs)), 300)


class GuideScript(unittest.TestCase):
    def test_runs_with_its_asserts_and_saves_an_artifact(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "bert.pt"
            run_example("guide_bert.py", "--size", "tiny", "-o", str(path))
            metadata = artifact.verify(path)
        self.assertEqual([bucket["inputs"] for bucket in metadata["buckets"]], [[[1, 128]] * 2, [[1, 512]] * 2])
        self.assertEqual(metadata["crop"], [])

    def test_takes_model_and_tokeniser_from_a_local_checkpoint(self):
        # A stand-in for `transformers`, which Debian does not package: it shows that it was asked, and for what.
        stand_in = """
import bert
from bucketd.tokenizer import Tokenizer

class AutoTokenizer:
    @staticmethod
    def from_pretrained(folder, *, local_files_only):
        assert (folder, local_files_only) == ("my-checkpoint", True)
        print("tokenizer from", folder)
        return Tokenizer.from_licenses()

class AutoModelForSequenceClassification:
    @staticmethod
    def from_pretrained(folder, *, torchscript, local_files_only):
        assert (folder, torchscript, local_files_only) == ("my-checkpoint", True, True)
        print("model from", folder)
        return bert.bert_model("tiny")
"""
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "transformers.py").write_text(stand_in)
            path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
            shown = run_example("guide_bert.py", "--checkpoint", "my-checkpoint", PYTHONPATH=path)
        self.assertIn("tokenizer from my-checkpoint", shown)
        self.assertIn("model from my-checkpoint", shown)


class DemoArtifact(unittest.TestCase):
    def differences(self, *options):
        """Makes the demo's files; [(length, largest difference of plain `torch.jit.load`, argmax equal)]."""
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            run_example("make_demo_artifact.py", "--size", "tiny", "-o", name, "--lengths", _LENGTHS, *options)
            artifact.verify(folder / "bert.pt")
            model = torch.jit.load(str(folder / "bert.pt"))
            index = json.loads((folder / "requests" / "index.json").read_text())
            expected = npy.load(folder / "requests" / "expected.npy")
            self.assertEqual(expected.tolist(), [entry["logits"] for entry in index])
            found = []
            for entry in index:
                tensors = [npy.load(folder / "requests" / entry[field]) for field in ("input_ids", "attention_mask")]
                self.assertEqual([list(tensor.shape) for tensor in tensors], [[1, entry["length"]]] * 2)
                logits = model(*tensors)[0][0]
                difference = float((logits - torch.tensor(entry["logits"])).abs().max())
                found.append((entry["length"], difference, int(logits.argmax()) == entry["argmax"]))
            return found

    def test_gives_the_unbucketed_answers_at_every_length(self):
        found = self.differences()
        self.assertEqual(len(found), 26)
        for length, difference, same_class in found:
            self.assertLessEqual(difference, _TOLERANCE, length)
            self.assertTrue(same_class, length)

    def test_shifted_boundary_shows_above_the_boundary_only(self):
        wrong = [length for length, difference, _ in self.differences("--break-boundary") if difference > _TOLERANCE]
        self.assertTrue(wrong)
        self.assertTrue(set(wrong) <= {130, 131, 157}, wrong)

    def test_wrong_padding_shows(self):
        wrong = [length for length, difference, _ in self.differences("--break-padding") if difference > _TOLERANCE]
        self.assertGreater(len(wrong), 15)
        self.assertNotIn(128, wrong)
        self.assertNotIn(512, wrong)


if __name__ == "__main__":
    unittest.main()
