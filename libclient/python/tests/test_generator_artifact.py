import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import torch

import source_folders

import train_generator
from bucketd import artifact, npy
from generator import GeneratorSize, generate_with_cache
from text_pieces import Pieces, training_text
from tiny_generator import SIZE, prompt_of, tiny_generator


class Training(unittest.TestCase):
    def test_pieces_are_the_text_again(self):
        pieces = Pieces.learn(training_text(), 512)
        text = "The work (its copies) can't be $5~ xylophones."
        self.assertEqual(pieces.decode(pieces.encode(text)), text)
        self.assertEqual(len(pieces.vocabulary), 512)
        self.assertEqual(len(set(pieces.vocabulary)), 512)

    def test_a_character_without_a_piece_is_refused(self):
        with self.assertRaisesRegex(ValueError, "no piece for 'c'"):
            Pieces(["a", "b"]).encode("abc")

    def test_is_the_same_every_time_and_learns(self):
        size = GeneratorSize(layers=1, width=16, heads=2, vocabulary=128)
        runs = []
        for _ in range(2):
            lines = []
            model, _ = train_generator.train(size, steps=51, report=lines.append)
            runs.append((model.state_dict(), [float(line.rsplit(" ", 1)[1]) for line in lines]))
        for name, weight in runs[0][0].items():
            self.assertTrue(torch.equal(weight, runs[1][0][name]), name)
        self.assertLess(runs[0][1][-1], runs[0][1][0] - 0.3)

    def test_weights_come_back_from_a_file(self):
        pieces = Pieces.learn(training_text(), SIZE.vocabulary)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "weights.pt"
            train_generator.save(path, tiny_generator(), pieces)
            model, loaded = train_generator.load(path)
        self.assertEqual(loaded.vocabulary, pieces.vocabulary)
        self.assertTrue(torch.equal(model(prompt_of(9)), tiny_generator()(prompt_of(9))))


class Artifact(unittest.TestCase):
    def test_comes_with_prompts_and_what_follows_them(self):
        with tempfile.TemporaryDirectory() as name:
            folder, weights = pathlib.Path(name), pathlib.Path(name) / "weights.pt"
            train_generator.save(weights, tiny_generator(), Pieces.learn(training_text(), SIZE.vocabulary))
            script = source_folders.EXAMPLES / "make_generator_artifact.py"
            command = [sys.executable, str(script), "-o", name, "--weights", str(weights), "--new-tokens", "70"]
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            metadata = artifact.verify(folder / "generator.pt")
            index = json.loads((folder / "prompts" / "index.json").read_text())
            loaded = torch.jit.load(str(folder / "generator.pt"))
            self.assertEqual(len(index["vocabulary"]), SIZE.vocabulary)
            self.assertEqual(index["padding"], "right")
            for entry in index["prompts"]:
                prompt, expected = (npy.load(folder / "prompts" / entry[field]) for field in ("prompt", "expected"))
                self.assertEqual((list(prompt.shape), list(expected.shape)), ([1, entry["tokens"]], [70]))
                text = "".join(index["vocabulary"][number] for number in expected.tolist())
                self.assertEqual(text, entry["continuation"])
                self.assertEqual(generate_with_cache(loaded, prompt, 70).tolist(), expected.tolist())
        self.assertEqual([bucket["inputs"][0][1] for bucket in metadata["buckets"]], [1, 64, 1, 256])
        self.assertEqual([bucket["states"][0][2] for bucket in metadata["buckets"]], [128, 128, 512, 512])


if __name__ == "__main__":
    unittest.main()
