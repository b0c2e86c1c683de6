"""Numbers of a diagnosis in words."""

from __future__ import annotations

import dataclasses

import pytest

from harness.record.diagnosis import CallDiagnosis, Element, Share
from harness.record.formatting import (
    amount_text,
    experts_text,
    fact_lines,
    numbers_text,
    percent,
    ranks_text,
)
from tests.harness.report.failed_results import call

FACTS = CallDiagnosis.from_json(call()).facts


def test_numbers_are_runs():
    assert numbers_text([0, 1, 2, 7]) == "0-2, 7"
    assert numbers_text([]) == ""
    assert numbers_text([0, 2, 4], max_runs=2) == "0, 2, ..."


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([5, 2, 0, 1], "ranks 0-2, 5"), ([3, 3], "rank 3"), ([0, 1], "ranks 0-1"), ([7], "rank 7")],
)
def test_ranks_are_runs_and_one_is_no_plural(ranks, text):
    assert ranks_text(ranks) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "less than 0.1 %"),
        (0.0004, "less than 0.1 %"),
        (0.004, "0.4 %"),
        (0.126, "13 %"),
        (0.8, "80 %"),
        (1.0, "100 %"),
        (12.344, "1234 %"),
    ],
)
def test_a_share_has_two_digits_and_is_never_nothing(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("rows", "columns", "text"),
    [
        (8, 128, "8 of 32 rows (R), 128 of 256 columns (C)"),
        (32, 128, "32 of 32 rows, 128 of 256 columns (C)"),
        (8, 240, "8 of 32 rows (R), 240 of 256 columns"),  # others may be right by luck
        (0, 0, "0 of 32 rows, 0 of 256 columns"),
    ],
)
def test_wrong_rows_and_columns_are_listed_where_the_others_are_right(rows, columns, text):
    facts = dataclasses.replace(
        FACTS,
        rows=Share(wrong=rows, of=32, numbers="R"),
        columns=Share(wrong=columns, of=256, numbers="C"),
    )
    assert amount_text(facts) == text


@pytest.mark.parametrize(
    ("actual", "expected", "text"),
    [
        (0.5, 0.25, "is 0.5, expected 0.25"),
        (0.25000001, 0.25, "is 0.25000001, expected 0.25"),
        (1 / 3, 0.333333, "is 0.33333333, expected 0.333333"),
        ("nan", 0.25, "is nan, expected 0.25"),
        (2.0, "inf", "is 2, expected inf"),
    ],
)
def test_an_element_has_as_many_digits_as_tell_its_values_apart(actual, expected, text):
    first = Element(row=1, column=2, actual=actual, expected=expected)
    head, *_ = fact_lines(dataclasses.replace(FACTS, first=first, worst=first))
    assert head == f"  first wrong element [1, 2] {text}"


def test_one_element_that_is_first_and_worst_comes_once():
    facts = dataclasses.replace(FACTS, worst=FACTS.first)
    lines = [line.split(" wrong")[0].strip() for line in fact_lines(facts) if "element" in line]
    assert lines == ["first"]
    assert not any("element" in line for line in fact_lines(FACTS_WITHOUT_ELEMENTS))


FACTS_WITHOUT_ELEMENTS = dataclasses.replace(FACTS, first=None, worst=None)


def test_a_side_without_a_finite_value_has_no_range():
    side = dataclasses.replace(FACTS.actual, min=None, max=None, zero_rows="", unwritten_rows="")
    *_, values, error = fact_lines(dataclasses.replace(FACTS, actual=side))
    assert values == "  values none finite, expected -2..2.5; NaN 2, Inf 1"
    assert error == "  relative rms error 0.5, 1-cosine 0.125"


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        ({"1": (1, 6), "5": (3, 3), "4": (5, 5)}, "4: 5 of 5, 5: 3 of 3, 1: 1 of 6"),
        ({str(e): (int(e > 6), 1) for e in range(8)}, "7: 1 of 1, " + "?"),
        ({"1": (5, 6), "4": (5, 5)}, ""),  # no clear difference
        ({"1": (1, 6), "4": (4, 5)}, ""),  # no expert that is all wrong
        ({}, ""),
    ],
)
def test_experts_are_listed_where_they_differ_clearly(shares, text):
    shown = experts_text(shares)
    if text.endswith("?"):
        assert shown.startswith(f"wrong rows by expert: {text[:-1]}")
        assert shown.endswith(", ...")
        assert shown.count(" of ") == 6
    else:
        assert shown == (f"wrong rows by expert: {text}" if text else "")
