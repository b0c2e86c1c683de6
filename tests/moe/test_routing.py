"""Logits of a gate, what a router is asked, padding, weights on the input, ids on a rank."""

import re

import pytest
import torch

from moe.errors import MoEError
from moe.routing import (
    RouterWeights,
    route,
    to_local_ids,
    weights_on_input,
    without_padding,
    zeroed_padding,
)
from moe.routing_method import RoutingMethod
from moe.types import Routing

PLAIN = RoutingMethod(top_k=2)
X = torch.tensor([[1.0, 3.0], [2.0, -1.0]], dtype=torch.bfloat16)
GATE = torch.tensor([[1.0, 1.0], [1.0, 2.0**-8], [0.0, 1.0]], dtype=torch.bfloat16)
CHOSEN = Routing(
    topk_ids=torch.tensor([[0, 3], [2, 1]], dtype=torch.int32),
    topk_weights=torch.tensor([[0.75, 0.25], [0.5, 0.5]]),
)


def test_a_gate_s_logits_have_the_dtype_that_the_method_says():
    weights = RouterWeights(gate=GATE)
    assert weights.logits(X, None, PLAIN).dtype == torch.bfloat16
    wide = weights.logits(X, None, RoutingMethod(top_k=1, logits_dtype="f32"))
    assert wide.tolist() == [[4.0, 1.01171875, 3.0], [1.0, 1.99609375, -1.0]]


def test_without_a_gate_the_given_logits_are_used_and_needed():
    logits = torch.zeros(2, 3)
    assert RouterWeights().logits(X, logits, PLAIN) is logits
    with pytest.raises(MoEError, match="has no gate and got no router logits; pass one of them"):
        RouterWeights().logits(X, None, PLAIN)


def test_a_router_gets_the_options_of_the_method_and_no_others():
    seen = []

    def router(logits, top_k, **options):
        seen.append((top_k, options))
        return CHOSEN

    logits, bias = torch.zeros(2, 4), torch.ones(4)
    route(router, PLAIN, logits)
    route(router, RoutingMethod(top_k=2, bias=True, scale=2.5), logits, bias)
    assert seen[0] == (2, {"renormalize": True})
    assert seen[1] == (2, {"renormalize": True, "bias": bias, "scale": 2.5})
    with pytest.raises(MoEError, match="has a bias, and it is None: pass it in RouterWeights"):
        route(router, RoutingMethod(top_k=2, bias=True), logits)


def test_padding_rows_have_no_expert_and_no_weight():
    assert without_padding(CHOSEN, None) is CHOSEN
    padded = without_padding(CHOSEN, torch.tensor([True, False]))
    assert padded.topk_ids.tolist() == [[-1, -1], [2, 1]]
    assert padded.topk_weights.tolist() == [[0.0, 0.0], [0.5, 0.5]]


def test_no_scale_depends_on_padding_rows():
    x = torch.tensor([[torch.nan, 9.0], [1.0, 2.0], [3.0, 4.0]])
    ids = torch.tensor([[-1, -1], [-1, 0], [1, 2]])
    assert zeroed_padding(x, ids).tolist() == [[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]


def test_weights_on_the_input_leave_weights_of_one():
    one = Routing(topk_ids=torch.tensor([[0], [1]]), topk_weights=torch.tensor([[0.3], [0.5]]))
    x, routing = weights_on_input(X, one)
    assert torch.equal(x, (X.float() * one.topk_weights).bfloat16())
    assert routing.topk_weights.tolist() == [[1.0], [1.0]]
    with pytest.raises(MoEError, match="need one expert per token, not 2; use top_k 1"):
        weights_on_input(X, CHOSEN)


def test_global_ids_become_local_ones_or_minus_one():
    ids = torch.tensor([[0, 3], [4, 5], [-1, 6]], dtype=torch.int32)
    shuffled = torch.tensor([-1, -1, -1, 0, 2, 1], dtype=torch.int32)
    assert to_local_ids(ids, shuffled).tolist() == [[-1, 0], [2, 1], [-1, -1]]
    assert to_local_ids(ids, torch.full_like(shuffled, -1)).tolist() == [[-1, -1]] * 3
    assert to_local_ids(ids, shuffled).dtype == torch.int32


IDS, WEIGHTS = CHOSEN.topk_ids, CHOSEN.topk_weights


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ((WEIGHTS, IDS), "returned a tuple; it must return moe.types.Routing(topk_ids=..."),
        (
            Routing(topk_ids=IDS[:, :1], topk_weights=WEIGHTS),
            "returned ids [2, 1] and weights [2, 2]; both must be [T, k] = [2, 2]",
        ),
        (
            Routing(topk_ids=WEIGHTS, topk_weights=IDS),
            "ids in torch.float32, weights torch.int32; ids must be torch.int32 and weights "
            "torch.float32: are they exchanged?",
        ),
    ],
)
def test_a_router_that_returns_anything_else_is_named(returned, says):
    with pytest.raises(MoEError, match="router function .*" + re.escape(says)):
        route(lambda logits, top_k, renormalize: returned, PLAIN, torch.zeros(2, 4))
