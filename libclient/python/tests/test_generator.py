import functools
import unittest

import torch

import source_folders

import generator_buckets
import models
from generator import ALIGNMENTS, UPDATES, generate, generate_with_cache
from tiny_generator import SIZE, prompt_of, tiny_generator

_TOLERANCE = 1e-4


@functools.lru_cache(maxsize=None)
def bucket_model(alignment, update, kernel):
    return generator_buckets.trace_generator(tiny_generator(), alignment, update, kernel)


@functools.lru_cache(maxsize=None)
def traced(alignment="left", update="in_place", kernel="script"):
    """The saved and loaded bucket model; its state is shared by the tests that use it."""
    return models.save_and_load(bucket_model(alignment, update, kernel))


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
            self.assertEqual(operators.count("aten::index_copy_"), 2 * SIZE.layers)
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


if __name__ == "__main__":
    unittest.main()
