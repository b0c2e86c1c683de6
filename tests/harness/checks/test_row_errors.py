"""Norms of rows: what is used of a tolerance, and ratios without NaN."""

from __future__ import annotations

import pytest
import torch

from harness.checks.output import judge
from harness.checks.row_errors import norm_of_all, ratio
from tests.harness.checks.answers import ANSWER, RIGHT


def test_ratios_of_zero_are_numbers() -> None:
    top, bottom = torch.tensor([0.0, 2.0, 1.0]), torch.tensor([0.0, 0.0, 4.0])
    assert ratio(top, bottom).tolist() == [0.0, torch.finfo(torch.float32).max, 0.25]
    assert float(norm_of_all(torch.tensor([3.0, 4.0]))) == 5


def test_the_cosine_is_right_to_its_last_digits() -> None:
    found = judge(RIGHT, ANSWER).metrics["one_minus_cosine"]
    a, b = RIGHT.double().flatten(), ANSWER.out.double().flatten()
    assert found == pytest.approx(float(1 - a @ b / (a.norm() * b.norm())), rel=1e-3)
    assert judge(RIGHT * 0, ANSWER).metrics["one_minus_cosine"] == 1
