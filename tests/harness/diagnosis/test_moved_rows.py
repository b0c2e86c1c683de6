"""Wrong rows that hold other rows' outputs are told, with how they moved."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.diagnosis.moved_rows import moved_rows
from tests.harness.diagnosis.explained import CALL, RIGHT, explained, names
from tests.harness.diagnosis.mistaken import with_output


def test_two_rows_that_changed_places():
    out = RIGHT.clone()
    out[[3, 9]] = RIGHT[[9, 3]]
    is_wrong = torch.zeros(40, dtype=torch.bool)
    is_wrong[[3, 9]] = True
    assert moved_rows(with_output(CALL, out), is_wrong).cause == "rows 3 and 9 are swapped"


def test_rows_that_are_no_other_rows_are_not_moved():
    assert moved_rows(with_output(CALL, RIGHT * 2), torch.ones(40, dtype=torch.bool)) is None


def test_rows_in_other_rows_places():
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    found = explained(RIGHT[order])
    assert names(found) == ["rows_moved"]
    assert found.causes[0].cause.startswith("wrong rows hold other rows' outputs: row 0 that")
    found = explained(torch.cat([RIGHT[-3:], RIGHT[:-3]]))
    text = "each wrong row holds the output of the row 3 before it, in a circle"
    assert found.causes[0].cause == text
    found = explained(RIGHT[torch.tensor([*range(20), *[4] * 20])])
    assert found.causes[0].cause.endswith("all hold the output of row 4")


@pytest.mark.parametrize(("step", "side", "empty"), [(-2, "after", "38-39"), (2, "before", "0-1")])
def test_rows_that_moved_leave_zeros_behind(step, side, empty):
    out = RIGHT.roll(step, 0)
    out[slice(step, None) if step < 0 else slice(step)] = 0
    found = explained(out)
    assert names(found) == ["rows_moved"]
    text = f"each wrong row holds the output of the row 2 {side} it; rows {empty}"
    assert found.causes[0].cause == f"{text}, which have no such row, are zeros"


def test_zeros_that_have_a_row_to_come_from_are_not_explained_by_rows_that_moved():
    out = RIGHT.roll(-2, 0)
    out[10:20] = 0
    assert names(explained(out)) == []


def test_rows_of_zeros_are_not_those_of_a_row_of_which_zeros_are_expected():
    answer = dataclasses.replace(CALL.answer, out=RIGHT.clone())
    answer.out[6] = 0
    out = answer.out.clone()
    out[2:4] = 0
    call = with_output(dataclasses.replace(CALL, answer=answer), out)
    is_wrong = torch.zeros(40, dtype=torch.bool)
    is_wrong[2:4] = True
    assert moved_rows(call, is_wrong) is None
