"""Numbers of a diagnosis in words."""

from __future__ import annotations

from harness.formatting import numbers_text


def test_numbers_are_runs():
    assert numbers_text([0, 1, 2, 7]) == "0-2, 7"
    assert numbers_text([]) == ""
    assert numbers_text([0, 2, 4], max_runs=2) == "0, 2, ..."
