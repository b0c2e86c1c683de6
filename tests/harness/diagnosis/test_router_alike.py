"""Weights that are all one are told as that, and by no formula that happens to give them."""

from __future__ import annotations

import torch

from harness.diagnosis.explanations import OF_ROUTER
from harness.diagnosis.router_alike import router_alike
from tests.harness.diagnosis.routed import right_weights, routed_by


def test_weights_that_are_all_one_are_told_as_that():
    routed = routed_by(renormalize=True)
    weights = torch.full_like(right_weights(routed), 1 / 3)
    text = "have the same weight, 0.333: their scores are equal, or are not used"
    assert router_alike(routed, weights).cause == f"in the router all slots {text}"
    weights[:2] = right_weights(routed)[:2]
    cause = router_alike(routed, weights)
    assert cause.cause == f"in the router all slots of the wrong tokens {text}"


def test_weights_that_differ_between_tokens_or_slots_are_not_alike():
    routed = routed_by(renormalize=True)
    right = right_weights(routed)
    assert router_alike(routed, right) is None
    assert router_alike(routed, right[:, :1].expand_as(right)) is None
    assert router_alike(routed, right * 0.9) is None


def test_no_formula_is_named_beside_it():
    barred = {row.name for row in OF_ROUTER if "router_alike" in row.unless}
    assert barred == {"router_logits", "router_weights", "router_roundings"}
