"""The shared experts against plain bf16 members that round where theirs may."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import silu

from moe.assumed_numerics import SHARED_ASSUMED
from moe.layout import Layout
from moe.reference.activation import activation_of
from moe.reference.shared_experts import SHARED, SharedTruth
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


def truth(numerics, gate=None, **changes):
    spec = dataclasses.replace(SPEC, shared_experts=1, **changes)
    return SharedTruth(
        w13=W13,
        w2=W2,
        gate=gate,
        numerics=numerics,
        layer_spec=spec,
        activation=activation_of("silu"),
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
    part = truth(numerics)(X)
    assert part.along.shape == (3, TOKENS)
    return (member(places) - part.out).square().sum(dim=1) / part.variance


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
    part = truth(SHARED_ASSUMED)(X)
    y, variance = part.out, part.variance
    swapped = silu(X @ W13[INNER:].T) * (X @ W13[:INNER].T) @ W2.T
    assert float(((swapped - y).square().sum(dim=1) / variance).amin()) > 100
    assert float((y.square().sum(dim=1) / variance).amin()) > 100


def test_a_gate_scales_output_and_error():
    gate = normal(1, HIDDEN) / HIDDEN**0.5
    plain, gated = truth(SHARED)(X), truth(SHARED, gate)(X)
    factor = torch.sigmoid(X @ gate.T)
    assert torch.allclose(gated.out, plain.out * factor, rtol=1e-5, atol=1e-6)
    assert bool((gated.variance > plain.variance * factor[:, 0].square()).all())  # rounded again
    made = (member(("gemm1", "activation")) * factor).bfloat16().float()
    ratios = (made - gated.out).square().sum(dim=1) / gated.variance
    assert 0.3 < float(ratios.mean()) < 1.2


def test_parts_of_the_tp_ranks_add_up():
    part = truth(SHARED, layout=Layout(tp_size=3))(X)
    assert part.parts.shape == (3, TOKENS, HIDDEN)
    assert torch.allclose(part.parts.sum(dim=0), part.out, rtol=1e-4, atol=1e-5)
    one = truth(SHARED)(X, 3)
    assert torch.equal(one.parts, part.parts)
    for rank in range(3):
        value, sigma, doubt = truth(SHARED, layout=Layout(tp_size=3)).stage(X, rank)
        assert torch.allclose(value, part.parts[rank], rtol=1e-4, atol=1e-5)
        assert sigma.shape == doubt.shape == (TOKENS, HIDDEN)


def test_blocks_of_columns_add_up_to_a_ranks_part():
    gate = normal(1, HIDDEN) / HIDDEN**0.5
    for layout, rank in ((Layout(), 0), (Layout(tp_size=2), 1)):
        one = truth(SHARED, gate, layout=layout)
        terms = one.column_terms(X, rank, 16)
        assert terms.shape == (TOKENS, INNER // layout.tp_size // 16, HIDDEN)
        assert torch.allclose(terms.sum(dim=1), one.stage(X, rank)[0], rtol=1e-4, atol=1e-5)
    half = dataclasses.replace(one, w2=torch.cat([W2[:, :32], W2[:, 32:] * 0], dim=1))
    assert not half.column_terms(X, 1, 16).any()


def test_a_quantized_one_may_flip_codes():
    """Each rank quantizes its own columns."""
    scheme = Scheme(weights="int8_channel", activations="int8_token")
    plain, coded = truth(SHARED)(X), truth(SHARED, shared_scheme=scheme)(X)
    error = float((coded.out - plain.out).norm() / plain.out.norm())
    assert 0.005 < error < 0.03
    assert not plain.flips.any()
    assert bool((coded.flips > 0).any())
    split = truth(SHARED, shared_scheme=scheme, layout=Layout(tp_size=2))(X)
    assert 1e-4 < float((split.out - coded.out).norm() / plain.out.norm()) < 0.03
