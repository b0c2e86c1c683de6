"""The rule by which wrong codes are rounded is told from their side and share."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis.which_codes import which_codes
from moe.formats import FORMATS
from moe.reference.formats import on_grid, step_of
from tests.harness.diagnosis.drawn_errors import of_codes

RULES = {"toward zero": torch.trunc, "down": torch.floor, "up": torch.ceil}


def said(actual, expected, fmt, stage="second"):
    return which_codes(of_codes(actual, expected, stage), fmt)


@pytest.mark.parametrize("name", ["int8_token", "fp8_token"])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_for_all_codes(name, rule):
    fmt = FORMATS[name]
    ratio = torch.randn(32, 64, generator=torch.Generator().manual_seed(2)) * 40
    step = step_of(ratio, fmt)
    actual = RULES[rule](ratio / step) * step
    text = said(actual, on_grid(ratio, fmt), fmt)
    side = {"toward zero": "too close to zero", "down": "too low", "up": "too high"}[rule]
    end = f"one step {side}, and none is off otherwise: as by another rule of rounding, or by other"
    assert text.endswith(f"{end} scales")
    assert said(actual * 2, on_grid(ratio, fmt), fmt) is None
    actual[0, :2] = on_grid(ratio, fmt)[0, :2] + 3 * step[0, :2] * torch.tensor([1.0, -1.0])
    assert said(actual, on_grid(ratio, fmt), fmt) is None


def test_ties_only():
    fmt = FORMATS["int8_token"]
    expected = torch.arange(-60.0, 60.0).repeat(10, 1)
    actual = expected.clone()
    actual[:, 100:104] += 1
    assert said(actual, expected, fmt) == (
        "3% of the codes are one step too high, all of them positive, and none is off otherwise: "
        "as by another rule for ties, or by scales that are little off"
    )
    assert said(actual, expected, fmt, "input") is None


def test_codes_of_one_sign_are_told_by_it():
    """As where a half is added and the rest cut off: positive codes are right."""
    fmt = FORMATS["int8_token"]
    ratio = torch.randn(32, 64, generator=torch.Generator().manual_seed(2)) * 40
    text = said((ratio + 0.5).trunc(), ratio.round(), fmt)
    assert "one step too high, all of them negative, and none is off otherwise" in text
