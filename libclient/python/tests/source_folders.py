"""Importing this makes the examples and the makers of test artifacts importable."""

import pathlib
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[3]
ARTIFACTS = _ROOT / "tests" / "artifacts"
EXAMPLES = _ROOT / "libclient" / "python" / "examples"
sys.path[:0] = [str(ARTIFACTS), str(EXAMPLES)]
