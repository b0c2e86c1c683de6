"""The version of Triton whose interpreter some tests look into: the one that a CPU machine gets."""

from pathlib import Path

import pytest
import triton

_CONSTRAINTS = Path(__file__).parents[3] / "constraints" / "cpu.txt"
_LINES = _CONSTRAINTS.read_text(encoding="utf-8").splitlines()
VERSION = next(line.partition("==")[2] for line in _LINES if line.startswith("triton=="))

# Not of results: of which functions of the interpreter exist, and what they take.
pinned_triton = pytest.mark.skipif(
    triton.__version__ != VERSION,
    reason=f"the interpreter of Triton {VERSION} is looked into, and this is {triton.__version__}",
)
