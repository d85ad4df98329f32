import contextlib
import io
import json
import pathlib
import tempfile
import unittest

import torch

import models
from bucketd import artifact, dtypes, metadata, module_check
from bucketd.errors import ArtifactError


class File(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "model.pt"
        self.traced = models.trace(models.AddOne(), [torch.ones(4), torch.ones(8)], name="add-one")
        self.traced.save(self.path)

    def run_command(self, *arguments):
        """(exit code, standard output, standard error) of `python3 -m bucketd.artifact`."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = artifact.main([*arguments, str(self.path)])
        return code, out.getvalue(), err.getvalue()


class Seal(File):
    def test_is_a_zip_comment_of_84_bytes_over_all_before_its_digits(self):
        import hashlib

        content = self.path.read_bytes()
        self.assertEqual(content[-84:-64], b"bucketd-seal sha256:")
        self.assertEqual(content[-64:].decode(), hashlib.sha256(content[:-64]).hexdigest())
        self.assertEqual(content[-106:-102], b"PK\x05\x06")

    def test_finds_every_flipped_byte(self):
        good = self.path.read_bytes()
        artifact.verify_seal(self.path)
        for at in range(len(good)):
            damaged = bytearray(good)
            damaged[at] ^= 1 << (at % 8)
            self.path.write_bytes(damaged)
            with self.assertRaises(ArtifactError, msg=f"byte {at}"):
                artifact.verify_seal(self.path)

    def test_finds_every_missing_and_added_end(self):
        good = self.path.read_bytes()
        for content in [good[:length] for length in range(0, len(good), 97)] + [good[:-1], good + b"\0", b"\0" + good]:
            self.path.write_bytes(content)
            with self.assertRaises(ArtifactError, msg=len(content)):
                artifact.verify_seal(self.path)

    def test_can_be_renewed(self):
        good = self.path.read_bytes()
        artifact.seal(self.path)
        self.assertEqual(self.path.read_bytes(), good)
        self.path.write_bytes(good[:-1] + b"x")
        artifact.seal(self.path)
        self.assertEqual(self.path.read_bytes(), good)

    def test_is_refused_to_what_is_no_archive(self):
        for content in (b"", b"text", bytes(1000), b"PK\x05\x06" + bytes(30)):
            self.path.write_bytes(content)
            with self.assertRaisesRegex(ArtifactError, "not a ZIP archive"):
                artifact.seal(self.path)


class Command(File):
    def test_show_prints_the_metadata(self):
        code, out, _ = self.run_command("show")
        self.assertEqual((code, json.loads(out)), (0, self.traced.metadata))

    def test_verify_accepts_a_good_file(self):
        code, out, _ = self.run_command("verify", "--run")
        self.assertEqual(code, 0)
        self.assertIn("valid, model 'add-one', 2 buckets", out)

    def test_verify_refuses_a_damaged_file_and_seal_mends_it(self):
        content = bytearray(self.path.read_bytes())
        content[-1] ^= 1
        self.path.write_bytes(content)
        code, _, err = self.run_command("verify")
        self.assertEqual(code, 1)
        self.assertIn("the seal does not fit the content", err)
        self.assertEqual(self.run_command("seal")[0], 0)
        self.assertEqual(self.run_command("verify")[0], 0)

    def test_missing_file_is_an_error(self):
        self.path.unlink()
        for command in ("show", "verify", "seal"):
            self.assertEqual(self.run_command(command)[0], 1)


class Module(File):
    def test_that_contradicts_its_metadata_is_refused(self):
        module_check.check_module(self.path, self.traced.metadata)
        self.traced.metadata["outputs"][0]["dtype"] = "int32"
        self.traced.save(self.path)
        with self.assertRaisesRegex(ArtifactError, r"output 0 of bucket 0 is not int32 \[4\]"):
            module_check.check_module(self.path, artifact.verify(self.path))


class ExactValues(unittest.TestCase):
    def test_are_those_that_survive_the_dtype(self):
        values = [
            0,
            1,
            -1,
            0.5,
            255,
            256,
            257,
            2048,
            2049,
            65504,
            65505,
            65520,
            2**24,
            2**24 + 1,
            0.1,
            1e-8,
            2.0**-24,
            2.0**-25,
            2.0**-149,
            2.0**-150,
            3.0e38,
            3.5e38,
            2.0**127,
            1e300,
            2**31,
            2**52 + 1,
        ]
        for name in dtypes.DTYPE_NAMES[1:]:
            dtype = getattr(torch, name)
            for value in values:
                exact = torch.tensor(float(value), dtype=torch.float64)
                if name in dtypes.INTEGER_RANGES:
                    low, high = dtypes.INTEGER_RANGES[name]
                    expected = low <= value <= high and float(value).is_integer()
                else:
                    expected = bool(exact.to(dtype).to(torch.float64) == exact)
                self.assertEqual(dtypes.holds_exactly(name, value), expected, (name, value))


class Metadata(unittest.TestCase):
    def test_of_many_models_is_valid(self):
        for examples in ([torch.ones(4)], [torch.ones(2, 2), torch.ones(3, 2)], [torch.tensor(1.0)]):
            metadata.validate(models.trace(models.AddOne(), examples).metadata)

    def test_with_the_same_key_twice_is_refused(self):
        with self.assertRaisesRegex(ArtifactError, "the same key twice"):
            metadata.parse(b'{"format": 1, "format": 1}')


if __name__ == "__main__":
    unittest.main()
