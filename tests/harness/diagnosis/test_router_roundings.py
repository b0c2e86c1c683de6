"""Roundings that a row does not state are told with the line that states them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.router_roundings import router_roundings
from harness.diagnosis.router_weights import router_weights
from moe.router_numerics import CUSTOMARY, PLAIN, RouterNumerics, declaration
from moe.routers import ROUTERS
from tests.harness.diagnosis.routed import right_weights, routed_by
from tests.moe.rounded_routers import RoundedRouter

LAYERS = {
    "softmax": {},
    "sigmoid": {"router": "sigmoid", "scale": 2.5},
    "bias": {"router": "sigmoid", "bias": True, "renormalize": False},
    "groups": {"router": "sigmoid", "bias": True, "groups": 4, "chosen_groups": 2},
}


def said(routed, weights):
    begin = "in the router all is right but for roundings: if they are meant, state rounding="
    return [cause.cause.removeprefix(begin) for cause in router_roundings(routed, weights, "bf16")]


def made_by(numerics, seed=0, **options):
    """A router's input, its choice and its weights, rounded; of logits in bf16."""
    routed = routed_by(seed, **options)
    logits = routed.logits.bfloat16()
    made = RoundedRouter(method=routed.truth.method, numerics=numerics, bias=routed.truth.bias)
    ids, weights = made(logits)
    return dataclasses.replace(routed, logits=logits.double(), ids=ids), weights.double()


def is_right_by(routed, weights, numerics):
    row = dataclasses.replace(ROUTERS.row(routed.truth.method.router), rounding=numerics)
    (resolved,) = row.roundings(routed.truth.method, "bf16")
    truth = dataclasses.replace(routed.truth, numerics=resolved)
    return truth.errors(routed.logits, routed.ids.int(), weights.float()) == []


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("numerics", CUSTOMARY[1:], ids=declaration)
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 999))
def test_the_line_to_state_is_one_that_makes_the_router_right(layer, numerics, seed):
    """Of several that do, such as with a layer in the dtype of the logits, the first."""
    routed, weights = made_by(numerics, seed, **LAYERS[layer])
    fitting = [declaration(one) for one in CUSTOMARY if is_right_by(routed, weights, one)]
    assert declaration(numerics) in fitting
    wanted = [] if declaration(PLAIN) in fitting else fitting[:1]
    assert said(routed, weights) == wanted


def test_roundings_of_several_steps_are_told_that_no_formula_has():
    routed, weights = made_by(RouterNumerics.as_torch(), router="sigmoid", scale=2.5)
    assert router_weights(routed, weights) == []
    assert said(routed, weights) == ["RouterNumerics.as_torch()"]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.floats(1e-4, 1.0), st.sampled_from(sorted(LAYERS)))
def test_of_noise_nothing_is_said(seed, size, layer):
    routed, weights = made_by(PLAIN, seed, **LAYERS[layer])
    noise = torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed + 5000))
    assert said(routed, weights * (1 + size * noise)) == []


def test_right_weights_and_nan_have_no_statement():
    routed = routed_by()
    assert said(routed, right_weights(routed)) == []
    assert said(routed, right_weights(routed) * torch.nan) == []
