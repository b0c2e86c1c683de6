"""The formula without another part is the right one; each other one differs in as many parts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.diagnosis import router_formulas
from harness.diagnosis.router_formulas import formulas
from harness.diagnosis.router_weights import router_weights
from moe.router_numerics import RouterNumerics
from tests.harness.diagnosis.routed import right_weights, routed_by
from tests.harness.diagnosis.test_router_roundings import made_by

PARTS = ("scores", "sums", "scales", "roundings", "places")


@pytest.mark.parametrize("options", [{}, {"renormalize": False}, {"router": "sigmoid", "scale": 2}])
def test_the_first_choice_of_each_part_is_right(options):
    routed = routed_by(**options)
    parts = [getattr(router_formulas, name)(routed) for name in PARTS]
    assert [next(iter(part)) for part in parts] == [""] * len(PARTS)
    score, total, scale, rounded, placed = (part[""] for part in parts)
    own = routed.chosen(score())
    weights = placed(rounded(scale(own / total(score(), own))))
    torch.testing.assert_close(weights, right_weights(routed), rtol=1e-6, atol=0)


def test_formulas_differ_in_as_many_parts_as_are_asked_for():
    of_one, of_two = formulas(routed_by(), 2)
    assert {len(formula.texts) for formula in of_one} == {1}
    assert {len(formula.texts) for formula in of_two} == {2}
    assert len({formula.texts for formula in of_two}) == len(of_two) > 100
    assert all(bool(formula.weights.isfinite().all()) for formula in of_two)


@pytest.mark.parametrize("options", [{}, {"renormalize": False}, {"router": "sigmoid", "scale": 2}])
def test_formulas_round_where_the_router_s_row_states_it(options):
    """Shifted weights of a router that rounds are recognised only if formulas round, too."""
    routed, weights = made_by(RouterNumerics.as_torch(), **options)
    numerics = RouterNumerics.as_torch().resolved(
        logits="bf16", model="bf16", bias=False, renormalize=routed.truth.method.renormalize
    )
    stated = dataclasses.replace(routed, truth=dataclasses.replace(routed.truth, numerics=numerics))
    text = "in the router each slot has the weight of the slot before it"
    assert [cause.cause for cause in router_weights(stated, weights.roll(1, 1))] == [text]
    assert router_weights(stated, weights) == []
    assert text not in [cause.cause for cause in router_weights(routed, weights.roll(1, 1))]


def test_a_softmax_over_the_chosen_experts_has_formulas_too():
    routed = routed_by(router="topk_softmax")
    (cause,) = router_weights(routed, right_weights(routed).roll(1, 1))
    assert cause.cause == "in the router each slot has the weight of the slot before it"
