"""How much of an output is wrong and where."""

from __future__ import annotations

import pytest

from harness.diagnosis.error_stats import number
from tests.harness.diagnosis.explained import RIGHT, explained
from tests.harness.diagnosis.mistaken import CASE


def test_facts_of_nan_inf_zero_and_unwritten_rows():
    out = RIGHT.clone()
    out[3] = 0
    out[7, 5] = float("nan")
    out[8, 6] = float("-inf")
    out[30:] = float("nan")
    found = explained(out)
    assert found.facts.rows.which == "3, 7-8, 30-39"
    assert (found.facts.actual.nan, found.facts.actual.inf) == (1 + 10 * CASE.k, 1)
    assert (found.facts.actual.zero_rows, found.facts.actual.unwritten_rows) == ("3", "30-39")
    assert (found.facts.expected.nan, found.facts.expected.zero_rows) == (0, "")
    assert (found.facts.first.row, found.facts.worst.row) == (3, 3)
    assert found.facts.elements.of == 40 * CASE.k
    assert (number(float("nan")), number(float("-inf")), number(0.5)) == ("nan", "-inf", 0.5)


def test_first_and_worst_elements_have_both_values():
    out = RIGHT.clone()
    out[2, 9] += 10 * float(RIGHT[2].square().mean().sqrt())
    out[6, 1] += 50 * float(RIGHT[6].square().mean().sqrt())
    found = explained(out)
    first, worst = found.facts.first, found.facts.worst
    assert (first.row, first.column, worst.row, worst.column) == (2, 9, 6, 1)
    assert worst.expected == pytest.approx(float(RIGHT[6, 1]))
    assert worst.over_rms == pytest.approx(50, rel=0.02)
