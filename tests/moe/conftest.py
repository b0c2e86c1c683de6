"""Tests of the stack: a file for each module, under the module's name.

A family's members are covered by the conformance tests of their family, which run over all rows of
its table, and by a file of the member's name for what is its alone.
"""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _same_draw() -> None:
    """Seed torch where it is imported: a test draws the same numbers alone and among others."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
