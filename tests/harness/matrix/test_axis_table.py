"""docs/axes.md is made from the axes."""

from __future__ import annotations

from pathlib import Path

from harness.matrix.axis_table import page

ROOT = Path(__file__).parents[3]


def test_the_committed_page_is_the_one_that_is_made() -> None:
    remedy = "run: python -m harness.matrix.axis_table > docs/axes.md"
    assert (ROOT / "docs/axes.md").read_text() == page(), remedy
