import functools
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import torch

import source_folders

import generator_buckets
import models
import train_generator
from bucketd import artifact, npy
from generator import ALIGNMENTS, UPDATES, Generator, GeneratorSize, generate, generate_with_cache
from text_pieces import Pieces, training_text

_SIZE = GeneratorSize(layers=2, width=32, heads=2, vocabulary=128)
_TOLERANCE = 1e-4


@functools.lru_cache(maxsize=1)
def tiny_generator():
    """Random weights, so wide that it does not repeat itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Generator(_SIZE).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


@functools.lru_cache(maxsize=None)
def bucket_model(alignment, update, kernel):
    return generator_buckets.trace_generator(tiny_generator(), alignment, update, kernel)


@functools.lru_cache(maxsize=None)
def traced(alignment="left", update="in_place", kernel="script"):
    """The saved and loaded bucket model; its state is shared by the tests that use it."""
    return models.save_and_load(bucket_model(alignment, update, kernel))


def prompt_of(tokens, seed=0):
    return torch.randint(_SIZE.vocabulary, (1, tokens), generator=torch.Generator().manual_seed(seed))


def ones(length):
    return torch.ones(1, length, dtype=torch.int64)


class Generation(unittest.TestCase):
    def test_grows_from_the_small_cache_bucket_into_the_large_as_without_buckets(self):
        prompt = prompt_of(60)
        expected, margin = generate(tiny_generator(), prompt, 100)
        self.assertGreater(margin, 1e-3, "rounding could turn a choice")
        self.assertGreater(len(set(expected.tolist())), 10, "a continuation that repeats itself shows little")
        for alignment in ALIGNMENTS:
            for update in UPDATES:
                found = generate_with_cache(traced(alignment, update), prompt, 100, alignment)
                self.assertEqual(found.tolist(), expected.tolist(), (alignment, update))

    def test_is_the_same_with_the_declarative_kernel(self):
        prompt = prompt_of(100)
        expected, _ = generate(tiny_generator(), prompt, 40)
        for alignment in ALIGNMENTS:
            found = generate_with_cache(traced(alignment, kernel="pad"), prompt, 40, alignment)
            self.assertEqual(found.tolist(), expected.tolist(), alignment)

    def test_a_prompt_may_be_sent_in_parts(self):
        prompt = prompt_of(300)
        with torch.no_grad():
            expected = tiny_generator()(prompt)
        for alignment in ALIGNMENTS:
            model, sent = traced(alignment), 0
            for part in (1, 2, 5, 56, 36, 28, 1, 130, 41):
                new, sent = prompt[:, sent : sent + part], sent + part
                _, logits = model(new, ones(sent))
                logits = logits[:, :part] if alignment == "left" else logits[:, -part:]
                torch.testing.assert_close(logits, expected[:, sent - part : sent], atol=_TOLERANCE, rtol=0)
        self.assertEqual(sent, 300)

    def test_more_than_the_cache_holds_is_refused(self):
        for tokens, length in ((1, 513), (257, 300)):
            with self.assertRaisesRegex(torch.jit.Error, "no bucket of model generator"):
                traced()(prompt_of(tokens), ones(length))


class Cache(unittest.TestCase):
    def fresh(self, alignment="left", update="in_place"):
        model = traced(alignment, update)
        model.state_0.zero_()
        model.state_1.zero_()
        return model

    def written(self, model):
        """Which positions of the cache are not as they were at first."""
        for state in (model.state_0, model.state_1):
            present = state.abs().amax((0, 1, 3)) > 0
        return present.nonzero().flatten().tolist()

    def test_holds_the_tokens_and_no_padding(self):
        for update in UPDATES:
            model = self.fresh("left", update)
            model(prompt_of(10), ones(10))
            self.assertEqual(self.written(model), list(range(10)), update)
            # More than fit between these and the end of the small view if they were padded.
            model(prompt_of(60), ones(125))
            self.assertEqual(self.written(model), [*range(10), *range(65, 125)], update)

    def test_right_aligned_holds_the_newest_at_its_end(self):
        for update in UPDATES:
            model = self.fresh("right", update)
            model(prompt_of(10), ones(10))
            self.assertEqual(self.written(model), list(range(502, 512)), update)
            model(prompt_of(1), ones(11))
            self.assertEqual(self.written(model), list(range(501, 512)), update)

    def test_of_the_small_bucket_is_the_beginning_of_the_large_ones(self):
        model = self.fresh()
        model(prompt_of(100), ones(100))
        before = model.state_0.clone()
        model(prompt_of(1), ones(101))
        model(prompt_of(1), ones(129))
        self.assertTrue(torch.equal(model.state_0[:, :, :100], before[:, :, :100]))
        self.assertEqual(self.written(model), [*range(101), 128])

    def test_is_never_exchanged_for_another_buffer(self):
        for alignment in ALIGNMENTS:
            model = self.fresh(alignment)
            addresses = [model.state_0.data_ptr(), model.state_1.data_ptr()]
            generate_with_cache(model, prompt_of(120), 20, alignment)
            self.assertEqual([model.state_0.data_ptr(), model.state_1.data_ptr()], addresses)

    def test_is_written_in_place_by_the_traced_buckets(self):
        # A decode bucket writes one position; it does not make a new cache and copy that.
        for bucket in (traced().bucket_0, traced().bucket_2):
            operators = [node.kind() for node in bucket.inlined_graph.nodes()]
            self.assertEqual(operators.count("aten::index_copy_"), 2 * _SIZE.layers)
            self.assertNotIn("aten::stack", operators)

    def test_in_place_has_no_aliases_and_functional_names_both(self):
        for update, aliases in (
            ("in_place", []),
            ("functional", [{"state": 0, "output": 2}, {"state": 1, "output": 3}]),
        ):
            metadata = bucket_model("left", update, "script").metadata
            self.assertEqual(metadata["aliases"], aliases)
            self.assertEqual([entry["name"] for entry in metadata["states"]], ["keys", "values"])
            self.assertEqual({crop["input"] for crop in metadata["crop"]}, {0})


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
        pieces = Pieces.learn(training_text(), _SIZE.vocabulary)
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
            train_generator.save(weights, tiny_generator(), Pieces.learn(training_text(), _SIZE.vocabulary))
            script = source_folders.EXAMPLES / "make_generator_artifact.py"
            command = [sys.executable, str(script), "-o", name, "--weights", str(weights), "--new-tokens", "70"]
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            metadata = artifact.verify(folder / "generator.pt")
            index = json.loads((folder / "prompts" / "index.json").read_text())
            loaded = torch.jit.load(str(folder / "generator.pt"))
            self.assertEqual(len(index["vocabulary"]), _SIZE.vocabulary)
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
