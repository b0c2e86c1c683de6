"""Rows of other ranks are named; nothing is said of noise, of one row and of sums of rows."""

from __future__ import annotations

import torch

from harness.checks.stage_bound import OfAllRanks
from harness.diagnosis.rows_of_ranks import rows_of_ranks
from harness.diagnosis.stage_errors import StageErrors
from moe.reference import formats

SIZES, RANK, COLUMNS = (5, 3, 4), 1, 32
VALUES = torch.randn(sum(SIZES), COLUMNS, generator=torch.Generator().manual_seed(0))
START = sum(SIZES[:RANK])
OF_ALL = OfAllRanks(
    value=VALUES,
    ranks=torch.tensor([0] * 5 + [1] * 3 + [2] * 4),
    rows=torch.tensor([*range(5), *range(3), *range(4)]),
    tokens=torch.arange(sum(SIZES)),
)


def said(actual):
    expected = VALUES[START : START + SIZES[RANK]]
    errors = StageErrors(
        stage="finalize",
        noun="elements",
        actual=actual.bfloat16().float(),
        expected=expected,
        tolerance=formats.step_of(expected.abs(), "bf16") * 0.6,
        numbers=torch.arange(SIZES[RANK]),
        facts=(),
    )
    cause = rows_of_ranks(errors, OF_ALL, RANK)
    return None if cause is None else cause.cause.removeprefix("in stage finalize ")


def test_rows_that_are_moved_by_one_distance():
    assert said(VALUES[3:6]) == (
        "each wrong row holds the sum of the row 2 before it, where the rows of all ranks are "
        "joined in rank order (row 0 that of rank 0's row 3, row 1 that of rank 0's row 4, "
        "row 2 that of rank 1's row 0)"
    )


def test_the_rows_of_another_rank():
    assert said(VALUES[[8, 9, 10]]).startswith("each wrong row holds the sum of the row 3 after it")
    assert said(VALUES[[0, 1, 7]]).startswith("each wrong row holds the sum of the row 5 before it")


def test_rows_in_no_order_and_rows_without_any():
    assert said(VALUES[[4, 9, 0]]).startswith("wrong rows hold the sums of other rows (row 0 that")
    zeros = torch.cat([VALUES[[4, 9]], torch.zeros(1, COLUMNS)])
    assert said(zeros).endswith("; rows 2 hold only zeros or NaN")


def test_nothing_is_said_of_noise_of_one_row_and_of_sums():
    right = VALUES[START : START + 3]
    assert said(right) is None
    assert said(right + 1) is None
    assert said(torch.cat([VALUES[:1], right[1:]])) is None
    assert said(right + VALUES[:3]) is None
