"""Whose scales came with tokens is named where each wrong one is that of one other token."""

from __future__ import annotations

import torch

from harness.checks.stage_bound import OfAllRanks
from harness.diagnosis.conditions import Fact
from harness.diagnosis.moved_scales import moved_scales
from harness.diagnosis.stage_errors import StageErrors

SIZES, COLUMNS = (4, 3), 16  # tokens of two ranks
OWN = torch.tensor([0, 2, 3, 5])  # of which this rank gets four
SCALES = torch.linspace(1, 2, sum(SIZES))[:, None].expand(-1, COLUMNS)


def said(source, scales=SCALES, times=1.0):
    """The statement if the rows had the scales of these tokens."""
    numbers = torch.arange(len(OWN))
    errors = StageErrors(
        stage="dispatch",
        noun="scales",
        actual=scales[torch.tensor(source)] * times,
        expected=scales[OWN],
        tolerance=torch.full((len(OWN), COLUMNS), 1e-30),
        numbers=numbers,
        facts=(Fact(one="row", many="rows", values=numbers.double()),),
    )
    rows = [torch.arange(size) for size in SIZES]
    of_all = OfAllRanks.joined(scales, (0, 1), rows, torch.arange(sum(SIZES)))
    cause = moved_scales(errors, of_all, OWN)
    return None if cause is None else cause.cause.removeprefix("in stage dispatch scales are ")


def test_whose_scales_they_are():
    assert said([0, 1, 2, 4]) == "those of the token before each, in the order of ranks"
    text = "row 1 has those of rank 0's token 1, row 3 has those of rank 1's token 2"
    assert said([0, 1, 3, 6]) == f"those of other tokens: {text}"


def test_nothing_is_said_of_scales_that_no_token_or_several_have():
    alike = torch.tensor([1.0, 2.0, 4.0, 1.0, 2.0, 4.0, 8.0])[:, None].expand(-1, COLUMNS)
    assert said([1, 2, 3, 5], alike) is None
    assert said([0, 2, 3, 5]) is None
    assert said([0, 1, 2, 4], SCALES, times=1.5) is None
