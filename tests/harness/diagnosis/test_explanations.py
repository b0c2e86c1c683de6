"""Each kind of statement is asked; an exception of one is told and hides no other."""

from __future__ import annotations

import dataclasses

import torch

from harness.diagnosis import moved_rows
from harness.diagnosis.explanations import EXPLANATIONS, OF_ROUTER, Explanation, explanations
from tests.harness.diagnosis import drawn_errors
from tests.harness.diagnosis.explained import RIGHT, explained
from tests.harness.diagnosis.mistaken import CASE
from tests.harness.diagnosis.wrong_sums import evidence_of


def test_each_row_of_the_table_names_what_its_module_returns():
    assert len({row.name for row in (*EXPLANATIONS, *OF_ROUTER)}) == len(EXPLANATIONS) + 5
    (cause,) = EXPLANATIONS[0].of(evidence_of(RIGHT.roll(2, 0), CASE))
    assert cause.name == EXPLANATIONS[0].name
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(RIGHT.shape, generator=generator).to(RIGHT.dtype)
    for row in (*EXPLANATIONS, *OF_ROUTER):
        assert row.of(evidence_of(RIGHT + noise, CASE)) == []


def test_what_another_kind_says_already_is_not_said_again():
    evidence = evidence_of(RIGHT * 2.3, CASE)
    row = next(row for row in EXPLANATIONS if row.name == "which_factor")
    assert [cause.name for cause in row.of(evidence)] == ["which_factor"]
    causes, _ = explanations(evidence)
    assert [cause.name for cause in causes] == ["which_shares"]


def test_statements_are_in_the_order_of_what_they_leave():
    twice = (EXPLANATIONS[1], EXPLANATIONS[1])
    causes, faults = explanations(evidence_of(RIGHT * 2.3, CASE), twice)
    assert [cause.cause for cause in causes] == ["all shares count 2.3 times"] * 2
    assert faults == []


def test_an_exception_is_told_and_hides_neither_the_others_nor_the_numbers(monkeypatch):
    def broken(evidence):
        raise IndexError("out of range")

    monkeypatch.setattr(moved_rows, "explain", broken)
    found = explained(RIGHT * 2.3)
    assert [cause.name for cause in found.causes] == ["which_shares"]
    assert found.faults == ("rows_moved: IndexError: out of range",)
    assert found.facts.rows.wrong == 40


def test_a_module_that_is_not_there_is_a_fault():
    _, faults = explanations(evidence_of(RIGHT * 2, CASE), [Explanation(name="a", module="none")])
    assert faults == ["a: ModuleNotFoundError: No module named 'harness.diagnosis.none'"]


def test_what_is_finite_is_explained_where_nan_hides_it(monkeypatch):
    """The stage is off by a factor in each column, but for rows and columns that are NaN."""
    errors = drawn_errors.right()
    actual = errors.expected * (2 + torch.arange(errors.expected.shape[1]) % 3)
    actual[5] = torch.nan
    actual[:, 7] = torch.nan
    evidence = dataclasses.replace(evidence_of(RIGHT, CASE), stage=object())
    evidence.__dict__["errors"] = drawn_errors.holding(errors, actual)
    factor = [row for row in EXPLANATIONS if row.name == "which_factor"]
    (cause,), faults = explanations(evidence, factor)
    assert "most values are off by another factor for each column" in cause.cause
    assert (cause.where, faults) == ("where values are neither NaN nor Inf", [])
    evidence.__dict__["errors"] = drawn_errors.holding(errors, torch.full_like(actual, torch.nan))
    assert explanations(evidence, factor) == ([], [])
