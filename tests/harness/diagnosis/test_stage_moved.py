"""Columns and rows of a stage that hold other ones' values are named; noise is not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.diagnosis.stage_errors import StageErrors
from harness.diagnosis.stage_moved import moved_columns, moved_rows
from tests.harness.diagnosis.drawn_errors import COLUMNS, ROWS, holding, right


def said(find, order, axis):
    errors = right()
    cause = find(holding(errors, errors.expected.index_select(axis, order)))
    return None if cause is None else cause.cause


@pytest.mark.parametrize(
    ("order", "text"),
    [
        (torch.arange(COLUMNS).roll(COLUMNS // 2), "columns that are 96 apart are swapped"),
        (
            torch.arange(COLUMNS).roll(1),
            "each wrong column holds the values of the column before it, in a circle",
        ),
        (torch.arange(COLUMNS).flip(0), "the wrong columns are in reverse order"),
        (torch.zeros(COLUMNS, dtype=torch.int64), "all wrong columns hold the values of column 0"),
        (
            torch.arange(COLUMNS).view(2, -1).T.flatten(),
            "the wrong columns hold the values of other columns: column 1 those of 96, "
            "column 2 those of 1, column 3 those of 97",
        ),
        (
            (torch.arange(COLUMNS) - 1).clamp(min=0),
            "each wrong column holds the values of the column before it",
        ),
    ],
)
def test_columns(order, text):
    assert said(moved_columns, order, 1) == f"in stage gemm1 {text}"


def test_rows():
    order = (torch.arange(ROWS) + 4).clamp(max=ROWS - 1)
    order[-4:] = torch.arange(ROWS)[-4:]
    text = "in stage gemm1 each wrong row holds the values of the row 4 after it"
    assert said(moved_rows, order, 0) == text


def test_a_single_row_of_many_columns_is_enough():
    order = torch.arange(ROWS)
    order[5] = 9
    assert said(moved_rows, order, 0) == "in stage gemm1 row 5 holds the values of row 9"
    errors = right()
    near = errors.expected.clone()
    near[5] = near[9] * 1.05
    assert moved_rows(holding(errors, near)) is None


@pytest.mark.parametrize("find", [moved_columns, moved_rows])
def test_of_noise_nothing_is_said(find):
    errors = right()
    noise = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    assert find(holding(errors, noise)) is None


def test_scales_of_other_rows():
    """One scale for each row is enough, since scales are exact."""
    expected = torch.rand(ROWS, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    errors = StageErrors(
        stage="dispatch",
        noun="scales",
        actual=expected.roll(1, 0),
        expected=expected,
        tolerance=torch.full_like(expected, 1e-7),
        numbers=torch.arange(ROWS),
        facts=(),
    )
    text = "each wrong row holds the scales of the row before it, in a circle"
    assert moved_rows(errors).cause == f"in stage dispatch {text}"
    noise = torch.rand(ROWS, 1, generator=torch.Generator().manual_seed(1))
    assert moved_rows(dataclasses.replace(errors, actual=noise)) is None
