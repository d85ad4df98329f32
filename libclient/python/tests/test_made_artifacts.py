import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import torch

import source_folders

import module_mutations
import sealed_archive
from bucketd import artifact, dtypes, module_check
from bucketd.errors import ArtifactError

_SCRIPTS = source_folders.ARTIFACTS


def load(path):
    """Accepts or refuses as a loader has to: seal, metadata, module."""
    module_check.check_module(path, artifact.verify(path))


class TestArtifacts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        subprocess.run(
            [sys.executable, _SCRIPTS / "make_test_artifacts.py", "-o", cls.folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def model(self, name):
        return torch.jit.load(str(self.folder / f"{name}.pt"))

    def write(self, content):
        path = self.folder / "written"
        path.write_bytes(content)
        return path

    def test_are_all_there_and_accepted(self):
        names = {path.stem for path in self.folder.glob("*.pt")}
        expected = {f"identity_{name}" for name in dtypes.DTYPE_NAMES} | {f"rank_{rank}" for rank in range(9)}
        expected |= {"two_dims", "left_pad", "script_kernel", "multi", "slow", "static_one", "counter"}
        expected |= {"tape_head", "tape_tail"}
        self.assertEqual(names, expected)
        for name in names:
            load(self.folder / f"{name}.pt")
            self.assertEqual(artifact.read_metadata(self.folder / f"{name}.pt")["name"], name)

    def test_do_what_the_page_says(self):
        for name in dtypes.DTYPE_NAMES:
            x = torch.tensor([1, 0, 1, 1, 1]).to(getattr(torch, name))
            self.assertEqual(self.model(f"identity_{name}")(x).tolist(), x.tolist() + [0] * 3)
        self.assertEqual(self.model("left_pad")(torch.tensor([[5, 6]])).tolist(), [[-2, -2, 10, 12]])
        self.assertEqual(list(self.model("two_dims")(torch.ones(3, 17)).shape), [8, 32])
        weighted, doubled, sums = self.model("multi")(torch.tensor([[2.0, 3.0]]), torch.tensor([[1, 2]]))
        self.assertEqual((weighted.tolist(), doubled.tolist()), ([[2.0, 6.0, 0.0, 0.0]], [[2, 4, 0, 0]]))
        self.assertEqual(sums.tolist(), [[6.0, 8.0, 3.0]])
        counter = self.model("counter")
        counter(torch.ones(1, 8))
        self.assertEqual(counter(torch.ones(1, 8))[0].tolist(), [[2.0] * 8])

    def test_archive_taken_apart_and_packed_again_is_accepted(self):
        load(self.write(sealed_archive.pack(sealed_archive.members(self.folder / "multi.pt"))))

    def test_builders_without_a_mutation_are_accepted(self):
        load(self.write(module_mutations.build()))
        load(self.write(module_mutations.build_with_state()))

    def test_every_mutation_is_refused(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            subprocess.run(
                [sys.executable, _SCRIPTS / "mutate_artifacts.py", "-o", name, "--from", self.folder / "multi.pt"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            mutations = json.loads((folder / "mutations.json").read_text())
            self.assertGreaterEqual(len(mutations), 200)
            self.assertEqual({entry["file"] for entry in mutations}, {path.name for path in folder.glob("*.pt")})
            for entry in mutations:
                self.assertEqual(entry["expect"], "refused")
                with self.assertRaises(ArtifactError, msg=entry["file"]):
                    load(folder / entry["file"])


if __name__ == "__main__":
    unittest.main()
