"""By which numbers zero experts multiply their tokens is told; of other numbers nothing is said."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis.stage_errors import StageErrors
from harness.diagnosis.zero_expert_weights import MOST_NAMED, OTHERS, zero_expert_weights
from harness.record.result import Verdict
from moe import layer
from moe.reference import formats
from tests.harness.execute_ranks import case, run_all

ROWS, WIDTH, SLOTS = 10, 48, 4


def drawn():
    """The sum of all else, the tokens, and weights of slots of which some have zero experts."""
    draw = torch.Generator().manual_seed(0)
    others, x = torch.randn(2, ROWS, WIDTH, generator=draw)
    weights = torch.rand(ROWS, SLOTS, generator=draw) + 0.2
    is_zero = torch.rand(ROWS, SLOTS, generator=draw) < 0.5
    is_zero[0], is_zero[1] = False, torch.tensor([True, True, False, False])
    return others, x, weights, is_zero


def said(number, rows=slice(None)):
    others, x, weights, is_zero = (part[rows] for part in drawn())
    right = torch.where(is_zero, weights, 0.0).sum(dim=1)
    expected = others + right[:, None] * x
    errors = StageErrors(
        stage="out",
        noun="elements",
        actual=(others + number(weights, is_zero)[:, None] * x).bfloat16().float(),
        expected=expected,
        tolerance=formats.step_of(expected.abs(), "bf16"),
        numbers=torch.arange(len(x)),
        facts=(),
    )
    return [c.cause for c in zero_expert_weights(errors, others, x, (weights, is_zero))]


@pytest.mark.parametrize("text", list(OTHERS))
def test_each_number_is_named(text):
    told = said(OTHERS[text])
    rounds = "rounded" in text  # less than the rounding of the output
    assert rounds or told[0].endswith(f"that zero experts return are multiplied by {text}")


def test_of_one_row_several_may_hold():
    told = said(OTHERS["the largest of their weights, not by the sum"], slice(1, 2))
    assert 1 <= len(told) <= MOST_NAMED


def test_nothing_is_said_of_other_numbers_and_of_right_ones():
    assert said(lambda w, z: torch.where(z, w, 0.0).sum(dim=1)) == []
    draw = torch.Generator().manual_seed(3)
    assert said(lambda w, _: torch.rand(len(w), generator=draw) + 2) == []


def largest_alone(out, x, routing, first):
    weights = torch.where(routing.topk_ids >= first, routing.topk_weights, 0.0)
    return (out.float() + weights.amax(dim=1, keepdim=True) * x.float()).to(out.dtype)


def test_of_one_wrong_row_it_is_said_beside_the_mistakes_that_fit_one_row(monkeypatch):
    """A missing zero expert fits a single row as well; other calls then contradict it."""
    monkeypatch.setattr(layer, "with_zero_experts", largest_alone)
    few = case(m=8, top_k=3, router_scale=2.5, zero_experts=3)
    (result,) = run_all([few.id])
    assert result.verdict is Verdict.FAILED
    (second,) = [call for call in result.diagnosis.calls if call.stages]
    said = [cause.cause for cause in (*second.causes, *second.weaker)]
    assert second.wrong_rows == 1
    assert any(text.endswith("by the largest of their weights, not by the sum") for text in said)
    assert [text for text in said if "top-k was cut short" in text] == []
