import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import torch

import source_folders

import image_example
import models
from bucketd import artifact, npy

_RESOLUTIONS = ((8, 8), (8, 16), (16, 8), (24, 24))


class ImageNetwork(unittest.TestCase):
    def test_gives_the_same_in_buckets_for_every_height_and_width(self):
        model = image_example.image_network()
        bucketed = models.save_and_load(image_example.trace_images(model, _RESOLUTIONS))
        for height in range(1, 25):
            for width in range(1, 25):
                image = image_example.random_image(height, width)
                difference = image_example.largest_difference(model, bucketed, image)
                self.assertLessEqual(difference, image_example.TOLERANCE, (height, width))

    def test_shows_a_wrong_padding(self):
        model = image_example.image_network()
        image = image_example.random_image(6, 7)
        for value, wrong in ((image_example.OUTSIDE, False), (0.0, True)):
            padded = torch.nn.functional.pad(image, (0, 1, 0, 2), value=value)
            found = image_example.cropped(*model(padded), 6, 7)
            difference = max(float((a - b).abs().max()) for a, b in zip(found, model(image)))
            self.assertEqual(difference > image_example.TOLERANCE, wrong, value)

    def test_answers_differ_from_image_to_image(self):
        model = image_example.image_network()
        first, second = (model(image_example.random_image(32, 32, seed))[0] for seed in (0, 1))
        self.assertGreater(float((first - second).abs().max()), 0.05)


class Artifact(unittest.TestCase):
    def test_comes_with_requests_and_answers(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            command = [sys.executable, str(source_folders.EXAMPLES / "image_example.py"), "-o", name]
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            metadata = artifact.verify(folder / "images.pt")
            index = json.loads((folder / "requests" / "index.json").read_text())
            loaded = torch.jit.load(str(folder / "images.pt"))
            self.assertEqual({entry["bucket"] for entry in index["requests"]}, {0, 1, 2, 3, 4})
            for entry in index["requests"]:
                image, scores, heat_map = (
                    npy.load(folder / "requests" / entry[field]) for field in ("image", "scores", "heat_map")
                )
                self.assertEqual(list(image.shape), [1, 3, entry["height"], entry["width"]])
                found = image_example.cropped(*loaded(image), entry["height"], entry["width"])
                for left, right in zip(found, (scores, heat_map)):
                    torch.testing.assert_close(left, right, atol=index["tolerance"], rtol=0)
        self.assertEqual(metadata["kernel"], {"type": "pad", "value": [-1.0], "side": ["right"], "dims": [[2, 3]]})
        self.assertEqual(
            [(crop["output"], crop["dim"], crop["input_dim"], crop["denominator"]) for crop in metadata["crop"]],
            [(1, 2, 2, 4), (1, 3, 3, 4)],
        )


if __name__ == "__main__":
    unittest.main()
