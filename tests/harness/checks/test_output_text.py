"""What a failed judgement says: rows, sizes and values."""

from __future__ import annotations

import pytest

from harness.checks.output import judge
from tests.harness.checks.answers import ANSWER, RIGHT


def test_the_message_says_how_much_where_and_both_values() -> None:
    wrong = RIGHT.clone()
    wrong[3] = 0
    wrong[7:9] *= 2
    found = judge(wrong, ANSWER)
    first, second = found.messages
    assert first.startswith("3 of 32 rows wrong (3, 7-8); worst row ")
    assert "x its tolerance; element [" in first
    assert first.endswith("; rows (3) are all zero")
    assert "relative rms error" in second
    assert found.metrics["bad_rows"] == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_are_found_and_placed(value: float) -> None:
    wrong = RIGHT.clone()
    wrong[9, 4] = value
    (text,) = judge(wrong, ANSWER).messages
    counts = "1 NaN and 0 Inf" if value != value else "0 NaN and 1 Inf"
    assert text == f"{counts} of 8192 elements, in 1 of 32 rows (9), first at [9, 4]"


def test_rows_that_nobody_wrote_are_named() -> None:
    wrong = RIGHT.clone()
    wrong[30:] = float("nan")
    (text,) = judge(wrong, ANSWER).messages
    assert "rows (30-31) are all NaN: never written" in text
