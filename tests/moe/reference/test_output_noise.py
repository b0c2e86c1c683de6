"""The noise after the second product, against draws of what it stands for."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from moe.layout import Layout
from moe.numerics import Numerics
from moe.reference.error_propagation import Noisy
from moe.reference.joined_pairs import joined
from moe.reference.output_noise import Term, add_noise, sum_roundings, weight_error
from moe.reference.pairs import Pairs
from moe.reference.result import empty_sums
from moe.reference.row_matrices import RowMatrices
from moe.spec import LayerSpec, Scheme

ROWS, INNER, HIDDEN = 40, 48, 160
GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR)


H, W2, WEIGHT = normal(1, ROWS, INNER), normal(1, HIDDEN, INNER), torch.rand(ROWS) + 0.2
Y = H @ W2.transpose(1, 2)
ALL = torch.arange(ROWS)


def layer_spec(world=1):
    return LayerSpec(
        m=ROWS,
        hidden=HIDDEN,
        intermediate=INNER,
        num_experts=4,
        top_k=2,
        scheme=Scheme(weights="model", activations="model"),
        layout=Layout(tp_size=world),
    )


def term_of(h, w2, weight):
    """The only term of all tokens, of an expert whose columns one rank holds."""
    pairs = Pairs(e=0, rows=ALL, slots=torch.zeros_like(ALL), weight=weight)
    (joined_pairs,) = joined([pairs], layer_spec(), 0)
    matrix = RowMatrices.one(w2[0])
    return Term(pairs=joined_pairs, weight=weight, h=h, w2=matrix, y=h.value @ w2.mT)


def noise_of(numerics, variance=0.0, weight=WEIGHT):
    zeros = torch.zeros_like(H)
    h = Noisy(value=H, variance=zeros + variance, jumps=zeros, doubt=zeros)
    sums = empty_sums(torch.zeros(ROWS, HIDDEN), 2, 1, None)
    add_noise(sums, term_of(h, W2, weight), numerics, layer_spec())
    return sums


def share(error, variance):
    """The mean squared length of errors [R, K] over the variance [R]."""
    return float((error.square().sum(dim=1) / variance).mean())


def bf16(x):
    return x.bfloat16().float()


@pytest.mark.parametrize("place", ["expert", "weighted"])
def test_a_rounding_of_the_output_or_of_its_weighted_value(place):
    sums = noise_of(Numerics.stated(**{place: "model"}, accumulation=2.0**-40))
    exact = Y[0] * WEIGHT[:, None]
    actual = bf16(Y[0]) * WEIGHT[:, None] if place == "expert" else bf16(exact)
    assert 0.85 < share(actual - exact, sums.variance) < 1.15


def test_outputs_of_experts_that_have_few_bits_are_rounded_less():
    h, w2 = ((t * 4).round() / 4 for t in (H, W2))
    y, zeros = h @ w2.transpose(1, 2), torch.zeros_like(h)
    assert (bf16(y) == y).float().mean() > 0.3
    noise = {}
    for accumulation in (2.0**-22, 2.0**-9):  # the sums are exact, or are not
        numerics = Numerics.stated(expert="model", accumulation=accumulation)
        sums = empty_sums(torch.zeros(ROWS, HIDDEN), 2, 1, None)
        noisy = Noisy(value=h, variance=zeros, jumps=zeros, doubt=zeros)
        add_noise(sums, term_of(noisy, w2, torch.ones(ROWS)), numerics, layer_spec())
        noise[accumulation] = sums.variance - INNER * (accumulation * y[0]).square().sum(dim=1)
    actual = (bf16(y[0]) - y[0]).square().sum()
    assert float(actual / noise[2.0**-22].sum()) == pytest.approx(1, abs=0.01)
    assert actual < 0.7 * noise[2.0**-9].sum()  # a step squared over twelve is too much


def test_a_value_that_was_weighted_earlier_is_not_rounded_again():
    early = Numerics.stated(weight_on="intermediate", weighted="model", accumulation=0.0)
    assert not noise_of(early, weight=torch.ones(ROWS)).variance.any()


def test_noise_of_the_intermediate_goes_through_the_second_product():
    sums = noise_of(Numerics.stated(accumulation=0.0), variance=0.01)
    error = (normal(ROWS, INNER) * 0.1) @ W2[0].T * WEIGHT[:, None]
    assert 0.8 < share(error, sums.variance) < 1.25


def test_unsure_weights_move_the_output_by_all_of_their_rounding():
    sums = noise_of(Numerics.stated(weight_dtype="either", accumulation=0.0))
    moved = (bf16(WEIGHT) - WEIGHT)[:, None] * Y[0]
    assert torch.allclose(sums.unsure, moved)
    assert not noise_of(Numerics.stated(weight_dtype="model")).unsure.any()
    out = Y[0] * WEIGHT[:, None]
    squared, along = weight_error(sums.unsure, out)
    assert torch.allclose(squared, moved.square().sum(dim=1))
    assert torch.allclose(along, (moved * out).sum(dim=1))


@pytest.mark.parametrize("reduction", ["model", "f32"])
def test_the_sum_over_ranks_is_rounded_at_each_step_or_once(reduction):
    partial = normal(4, ROWS, HIDDEN)
    out = partial.sum(dim=0)
    numerics = Numerics.stated(reduction=reduction)
    variance = sum_roundings(partial, out, numerics, layer_spec(4), has_shared=False)
    actual = bf16(out)
    if reduction == "model":
        actual = bf16(partial[0])
        for part in partial[1:]:
            actual = bf16(actual + bf16(part))
    assert (0.85 if reduction == "f32" else 0.5) < share(actual - out, variance) < 1.15


@pytest.mark.parametrize("tp", [1, 2])
def test_what_is_sent_is_rounded_and_its_sum_in_float32_once(tp):
    """With TP ranks each has such a sum, which they add in the layer's dtype."""
    partial = normal(4, ROWS, HIDDEN)
    numerics = Numerics.stated(reduction="wire")
    spec = dataclasses.replace(layer_spec(4), layout=Layout(dp_size=4 // tp, tp_size=tp))
    out = partial.sum(dim=0)
    variance = sum_roundings(partial, out, numerics, spec, has_shared=False)
    sums = [bf16(bf16(part).sum(dim=0)) for part in partial.split(4 // tp)]
    actual = sums[0] if tp == 1 else bf16(sums[0] + sums[1])
    assert (0.85 if tp == 1 else 0.5) < share(actual - out, variance) < 1.15


def test_a_sum_over_experts_that_is_rounded_at_each_addition_counts_each():
    partial = normal(1, ROWS, HIDDEN)
    plain, rounded = (
        sum_roundings(partial, partial[0], Numerics.stated(combine=c), layer_spec(), False)
        for c in ("f32", "model")
    )
    assert torch.allclose(rounded, 2 * plain)
