"""How much of an output is wrong and where."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis.error_stats import facts, number
from harness.diagnosis.patterns import Mismatch
from tests.harness.diagnosis.explained import RIGHT, explained
from tests.harness.diagnosis.mistaken import CASE


def test_facts_of_nan_inf_zero_and_unwritten_rows():
    out = RIGHT.clone()
    out[3] = 0
    out[7, 5] = float("nan")
    out[8, 6] = float("-inf")
    out[30:] = float("nan")
    found = explained(out)
    assert found.facts.rows.numbers == "3, 7-8, 30-39"
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


def test_right_values_have_no_first_nor_worst_element():
    expected = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    nothing = Mismatch(rows=torch.zeros(2, dtype=torch.bool), elements=expected == 9)
    made = facts(expected.clone(), expected, nothing)
    assert (made.first, made.worst, made.rel_rms, made.elements.wrong) == (None, None, 0, 0)
    assert made.one_minus_cosine == pytest.approx(0, abs=1e-12)
    assert (made.actual.min, made.actual.max) == (-4, 3)
    assert made.actual.zero_rows == ""  # the second should be zeros


def test_distances_leave_out_what_is_not_finite():
    expected = torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    actual = torch.tensor([[6.0, 8.0], [torch.nan, torch.inf]])
    wrong = Mismatch(rows=torch.ones(2, dtype=torch.bool), elements=actual != expected)
    made = facts(actual, expected, wrong)
    assert made.rel_rms == pytest.approx(1)
    assert made.one_minus_cosine == pytest.approx(0, abs=1e-6)
    assert (made.actual.max, made.actual.nan, made.actual.inf) == (8, 1, 1)
    assert (made.worst.row, made.worst.column) in {(0, 0), (0, 1)}


def test_an_error_in_a_row_of_zeros_has_no_ratio():
    expected = torch.zeros(1, 2)
    actual = torch.tensor([[0.0, 5.0]])
    made = facts(actual, expected, Mismatch(rows=actual[:, 1] > 0, elements=actual > 0))
    assert (made.worst.column, made.worst.actual, made.worst.over_rms) == (1, 5, None)
