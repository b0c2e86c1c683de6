"""Other router weights of the slots are recognised by the sums; of noise nothing is said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.conditions import Fact
from harness.diagnosis.slot_weights import OTHERS, slot_weights
from harness.diagnosis.terms import Terms
from moe.reference import formats

ROWS, SLOTS, COLUMNS = 24, 4, 96


def sums(seed=0):
    """The outputs of the experts [R, k, C], router weights, and which slots are computed."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(ROWS, SLOTS, COLUMNS, generator=generator)
    weights = torch.rand(ROWS, SLOTS, generator=generator) + 0.1
    weights = (weights / weights.sum(dim=1, keepdim=True)).sort(dim=1, descending=True).values
    is_used = torch.rand(ROWS, SLOTS, generator=generator) < 0.8
    return y * is_used[:, :, None], weights, is_used


def said(actual, seed=0):
    y, weights, is_used = sums(seed)
    values = weights[:, :, None] * y
    expected = values.sum(dim=1)
    held = actual.bfloat16().float()
    tolerance = (formats.step_of(expected.abs(), "bf16") * 0.5).norm(dim=1) + 1e-6
    terms = Terms(
        noun="shares",
        actual=held,
        expected=expected,
        tolerance=tolerance,
        is_wrong=(held - expected).norm(dim=1) > tolerance,
        values=values,
        facts=(),
        stage="combine",
    )
    causes = slot_weights(terms, weights, is_used, torch.arange(ROWS))
    prefix = "in stage combine the experts' outputs are weighted "
    return [cause.cause.removeprefix(prefix) for cause in causes]


@pytest.mark.parametrize("text", [t for t in OTHERS if "fp16" not in t])
def test_other_weights_are_named(text):
    y, weights, is_used = sums()
    assert said((OTHERS[text](weights, is_used)[:, :, None] * y).sum(dim=1)) == [text]


def test_a_rounding_that_is_far_below_that_of_the_sum_is_not_told_from_noise():
    y, weights, is_used = sums()
    rounded = OTHERS["by router weights that are rounded to fp16"](weights, is_used)
    assert said((rounded[:, :, None] * y).sum(dim=1)) == []


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.floats(0.01, 1.0))
def test_of_noise_nothing_is_said(seed, size):
    y, weights, _ = sums(seed)
    noise = torch.randn(ROWS, SLOTS, generator=torch.Generator().manual_seed(seed + 5000))
    assert said((weights * (1 + size * noise))[:, :, None].mul(y).sum(dim=1), seed) == []


def test_of_two_rules_by_turns_nothing_is_said():
    y, weights, _ = sums()
    is_even = torch.arange(ROWS)[:, None] % 2 == 0
    turns = torch.where(is_even, weights.square(), weights.flip(1))
    assert said((turns[:, :, None] * y).sum(dim=1)) == []


def test_other_weights_of_one_slot_in_some_rows():
    y, weights, is_used = sums()
    changed = weights.clone()
    changed[1::2, 2] = 1.0
    actual = (changed[:, :, None] * y).sum(dim=1)
    values = weights[:, :, None] * y
    expected = values.sum(dim=1)
    tolerance = torch.full((ROWS,), 1e-3)
    rows = torch.arange(ROWS)
    terms = Terms(
        noun="shares",
        actual=actual,
        expected=expected,
        tolerance=tolerance,
        is_wrong=(actual - expected).norm(dim=1) > tolerance,
        values=values,
        facts=(Fact(one="row", many="rows", values=rows.repeat_interleave(SLOTS).double()),),
    )
    (cause,) = slot_weights(terms, weights, is_used, rows)
    assert cause.cause == "the outputs of slot 2 are weighted by 1 each, not by the router weights"
    assert cause.where  # the slot is not computed in each odd row, so no condition tells these rows
