"""The shared experts against plain bf16 members that round where theirs may."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from moe.assumed_numerics import SHARED_ASSUMED
from moe.layout import Layout
from moe.reference.activation import activation_of
from moe.reference.shared_experts import SHARED, shared_output
from moe.spec import LayerSpec, Scheme

TOKENS, HIDDEN, INNER = 48, 96, 64
GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR)


X = normal(TOKENS, HIDDEN).bfloat16().float()
W13 = (normal(2 * INNER, HIDDEN) * 1.5 / HIDDEN**0.5).bfloat16().float()
W2 = (normal(HIDDEN, INNER) / INNER**0.5).bfloat16().float()
SPEC = LayerSpec(
    m=TOKENS,
    hidden=HIDDEN,
    intermediate=INNER,
    num_experts=4,
    top_k=2,
    scheme=Scheme(weights="model", activations="model"),
    layout=Layout(),
)


def member(places):
    """The MLP, rounded to bf16 at these places and at the end."""

    def rounds(value, place):
        return value.bfloat16().float() if place in places else value

    gate, up = rounds(X @ W13.T, "gemm1").chunk(2, dim=1)
    h = rounds(rounds(silu(gate), "activated_gate") * up, "activation")
    return (h @ W2.T).bfloat16().float()


def used(places, numerics):
    """Return the squared distances of the member over the allowed variance, [T]."""
    y, variance, along = shared_output(X, (W13, W2), numerics, SPEC, activation_of("silu"))
    assert along.shape == (3, TOKENS)
    return (member(places) - y).square().sum(dim=1) / variance


def test_the_shared_experts_of_this_project_round_each_step():
    assert 0.3 < float(used(("gemm1", "activation"), SHARED).mean()) < 1.2


@pytest.mark.parametrize(
    "places",
    [(), ("gemm1",), ("activation",), ("gemm1", "activated_gate", "activation")],
    ids=",".join,
)
def test_assumed_ones_may_round_where_they_like(places):
    ratios = used(places, SHARED_ASSUMED)
    assert float(ratios.mean()) < 1.2
    assert float(ratios.amax()) < 4


def test_assumed_ones_hide_no_mistake():
    y, variance, _ = shared_output(X, (W13, W2), SHARED_ASSUMED, SPEC, activation_of("silu"))
    swapped = silu(X @ W13[INNER:].T) * (X @ W13[:INNER].T) @ W2.T
    assert float(((swapped - y).square().sum(dim=1) / variance).amin()) > 100
    assert float((y.square().sum(dim=1) / variance).amin()) > 100
