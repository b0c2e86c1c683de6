"""Each formula for router weights is recognised by its weights; of noise nothing is said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.diagnosis.router_formulas import formulas
from harness.diagnosis.router_weights import FEWEST, is_close, router_weights
from tests.harness.diagnosis.routed import TOKENS, right_weights, routed_by

LAYERS = {
    "softmax": {},
    "softmax as it is": {"renormalize": False},
    "sigmoid": {"router": "sigmoid", "scale": 2.5},
    "sigmoid with a bias": {"router": "sigmoid", "bias": True, "renormalize": False},
}


def said(routed, weights):
    return [cause.cause.removeprefix("in the router ") for cause in router_weights(routed, weights)]


def other_formulas(routed, parts):
    """Those of so many other parts that do not give the right weights."""
    (*_, found) = formulas(routed, parts)
    right = right_weights(routed)
    return [f for f in found if not bool(is_close(f.weights, right, 4.0).any())]


@pytest.mark.parametrize("layer", LAYERS)
def test_each_part_of_a_formula_that_differs_is_named(layer):
    """Or another one that gives the same weights: that is then named, too."""
    routed = routed_by(**LAYERS[layer])
    others = other_formulas(routed, 1)
    assert len(others) > 15
    for formula in others:
        texts = said(routed, formula.weights)
        alike = [f for f in others if bool(is_close(f.weights, formula.weights, 8.0).all())]
        assert texts[0] in [f.texts[0] for f in alike]
        assert len(texts) == min(len(alike), 2)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 999), st.sampled_from(sorted(LAYERS)), st.data())
def test_two_parts_that_differ_are_both_named(seed, layer, data):
    """Or another formula of at most two parts that gives the same weights."""
    routed = routed_by(seed, **LAYERS[layer])
    of_two = other_formulas(routed, 2)
    formula = data.draw(st.sampled_from(of_two))
    alike = {
        " and ".join(f.texts)
        for f in (*other_formulas(routed, 1), *of_two)
        if bool(is_close(f.weights, formula.weights, 8.0).all())
    }
    texts = said(routed, formula.weights)
    assert texts
    assert {*texts} <= alike


@pytest.mark.parametrize("amount", [1e-2, 1e-6, -0.05])
def test_an_amount_that_is_added_to_the_sum(amount):
    routed = routed_by(router="sigmoid")
    scores = routed.chosen(torch.sigmoid(routed.logits))
    text = f"{amount:.3g} is added to the sum by which scores are renormalised"
    found = said(routed, scores / (scores.sum(dim=1, keepdim=True) + amount))
    assert found == ([] if amount == 1e-6 else [text])  # so little is within the tolerance


def test_an_amount_that_is_added_to_each_weight():
    routed = routed_by()
    assert said(routed, right_weights(routed) + 0.125) == ["0.125 is added to each weight"]


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.25])
@pytest.mark.parametrize("renormalize", [True, False])
def test_a_factor_of_the_logits(factor, renormalize):
    routed = routed_by(renormalize=renormalize)
    weights = torch.softmax(routed.logits * factor, dim=1).gather(1, routed.ids)
    weights = weights / weights.sum(dim=1, keepdim=True) if renormalize else weights
    text = f"the logits are multiplied by {factor:.3g} before the softmax"
    assert said(routed, weights) == [text]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.floats(1.01, 4.0), st.sampled_from(["slot", "expert"]))
def test_a_factor_of_one_slot_or_expert(seed, factor, which):
    routed = routed_by(seed)
    numbers = torch.arange(3).expand_as(routed.ids) if which == "slot" else routed.ids
    weights = torch.where(numbers == 1, factor, 1.0) * right_weights(routed)
    assume(int((numbers == 1).any(dim=1).sum()) >= FEWEST)  # seed 68 sends three tokens there
    (cause,) = router_weights(routed, weights)
    assert cause.cause.startswith(f"in stage router the router weights of {which} 1 are ")


def test_some_tokens_only_are_named():
    routed = routed_by()
    weights = right_weights(routed)
    weights[16:] = weights[16:].flip(1)
    assert said(routed, weights)[0] == (
        "the weights of a token are in reverse order for tokens >= 16 only"
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 999), st.floats(1e-4, 1.0), st.sampled_from(sorted(LAYERS)))
def test_of_noise_nothing_is_said(seed, size, layer):
    routed = routed_by(seed, **LAYERS[layer])
    noise = torch.randn(TOKENS, 3, generator=torch.Generator().manual_seed(seed + 5000))
    assert said(routed, right_weights(routed) * (1 + size * noise)) == []


def test_of_two_formulas_by_turns_nothing_is_said():
    routed = routed_by()
    right = right_weights(routed)
    weights = torch.where(torch.arange(TOKENS)[:, None] % 2 == 0, right.square(), right.sqrt())
    assert said(routed, weights) == []


def test_right_weights_and_nan_have_no_statement():
    routed = routed_by()
    assert said(routed, right_weights(routed)) == []
    assert said(routed, right_weights(routed) * torch.nan) == []


@pytest.mark.parametrize("router", ["softplus_sqrt", "triton_softplus_sqrt"])
def test_what_is_rounded_before_the_root_is_named(router):
    routed = routed_by(router=router, scale=2.5)
    scores = torch.nn.functional.softplus(routed.logits).half().double().sqrt()
    own = routed.chosen(scores)
    texts = said(routed, 2.5 * own / own.sum(dim=1, keepdim=True))
    assert texts == ["the softplus, before its root, is rounded to fp16"]
