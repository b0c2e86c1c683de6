"""Low-rank adapters: the plain formula, shards whose sum is the whole, and refused input."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from moe import expert_shards, layer
from moe.adapters import (
    Adapters,
    add_adapted,
    check_adapters,
    check_choice,
    first,
    in_float32,
    second,
    shard_adapters,
)
from moe.collectives import ALONE, Groups
from moe.errors import MoEError
from moe.layout import Layout
from moe.quant import QUANT
from moe.spec import LayerSpec
from tests.moe.test_layer import members

K, N, R, E, COUNT = 24, 12, 4, 4, 2
SPEC = LayerSpec(
    m=5, hidden=K, intermediate=N, num_experts=E, top_k=2, dtype="f32", adapters=COUNT, lora_rank=R
)


def adapters(scale=(0.5, 2.0)) -> Adapters:
    torch.manual_seed(0)
    return Adapters(
        a13=torch.randn(COUNT, E, 2, R, K),
        b13=torch.randn(COUNT, E, 2, N, R),
        a2=torch.randn(COUNT, E, R, N),
        b2=torch.randn(COUNT, E, K, R),
        scale=torch.tensor(scale),
    )


def merged(of_all, number, e, w13, w2):
    """The expert's matrices with an adapter in them; -1 = none."""
    if number < 0:
        return w13, w2
    by = float(of_all.scale[number])
    change = torch.cat(
        [b @ a for a, b in zip(of_all.a13[number, e], of_all.b13[number, e], strict=True)]
    )
    return w13 + by * change, w2 + by * of_all.b2[number, e] @ of_all.a2[number, e]


def by_hand(of_all, w13, w2, x, logits, chosen):
    weights, ids = logits.double().softmax(dim=1).topk(2)
    out = torch.zeros(x.shape, dtype=torch.float64)
    for t, number in enumerate(chosen.tolist()):
        for weight, e in zip(weights[t] / weights[t].sum(), ids[t].tolist(), strict=True):
            up_down = merged(of_all, number, e, w13[e], w2[e])
            gate, up = (up_down[0].double() @ x[t].double()).chunk(2)
            out[t] += weight * (up_down[1].double() @ (torch.nn.functional.silu(gate) * up))
    return out


@pytest.mark.parametrize("layout", [Layout(), Layout(tp_size=2), Layout(tp_size=2, use_ep=True)])
def test_the_ranks_together_add_what_the_formula_says(layout):
    spec, of_all = dataclasses.replace(SPEC, layout=layout), adapters()
    w13, w2 = torch.randn(E, 2 * N, K) / 5, torch.randn(E, K, N) / 5
    x, logits = torch.randn(5, K), torch.randn(5, E)
    chosen = torch.tensor([0, 1, -1, 1, 0], dtype=torch.int32)
    quant, total = QUANT.load("none")(), torch.zeros(5, K)
    for rank in range(layout.world_size):
        experts = list(spec.experts_of(rank))
        weights = expert_shards.shard_weights(spec, rank, quant, w13[experts], w2[experts])
        built = layer.build(
            *(spec, rank, Groups(gather=ALONE, tp=ALONE), members(), weights),
            adapters=shard_adapters(spec, rank, of_all),
        )
        total += built.forward(x, logits, adapters=chosen).out
    wanted = by_hand(of_all, w13, w2, x, logits, chosen)
    assert float((total - wanted).norm() / wanted.norm()) < 1e-5
    none = by_hand(of_all, w13, w2, x, logits, torch.full((5,), -1))
    assert float((wanted - none)[2].norm()) == 0
    assert float((wanted - none).norm() / wanted.norm()) > 0.1


def test_padded_products_and_inputs_are_left_alone_beyond_their_columns():
    a, b = first(adapters())
    x, y = torch.randn(3, K + 8), torch.zeros(3, 2 * (N + 4))
    x[:, K:] = torch.nan
    add_adapted(y, x, (torch.tensor([0, 1, -1]), torch.tensor([1, -1, 0])), (a, b))
    assert bool((y[1:] == 0).all())
    assert bool((y[0, N : N + 4] == 0).all())
    wanted = b[1, 0, 1] @ a[1, 0, 1] @ x[0, :K]
    assert torch.allclose(y[0, N + 4 : 2 * N + 4], wanted, atol=1e-4)
    assert [t.shape[2] for t in second(adapters())] == [1, 1]
    assert in_float32(adapters()).a2.dtype == torch.float32


SHARE = shard_adapters(SPEC, 0, adapters())


@pytest.mark.parametrize(
    ("spec", "share", "text"),
    [
        (SPEC, None, "adapters is 2, but the adapters' matrices are None; pass them exactly"),
        (dataclasses.replace(SPEC, adapters=0), SHARE, "adapters is 0, but .* are given"),
        (
            SPEC,
            dataclasses.replace(SHARE, a13=SHARE.a13[..., :-1]),
            r"a13 is \[2, 4, 2, 4, 23\]; a rank's share of 2 adapters of rank 4 must be "
            r"\[2, 4, 2, 4, 24\]",
        ),
        (SPEC, adapters(), "scale is given beside a rank's share; use shard_adapters"),
    ],
)
def test_a_share_that_does_not_fit_is_an_error(spec, share, text):
    with pytest.raises(MoEError, match=text):
        check_adapters(spec, 0, share)


@pytest.mark.parametrize(
    ("spec", "chosen", "text"),
    [
        (SPEC, None, "the layer has 2 adapters, and the tokens' adapters are None; pass"),
        (
            dataclasses.replace(SPEC, adapters=0),
            torch.zeros(3, dtype=torch.int32),
            "the layer has 0 adapters, and the tokens' adapters are given",
        ),
        (SPEC, torch.zeros(3), r"are \[3\] of torch.float32; they must be \[3\] of torch.int32"),
        (SPEC, torch.zeros(2, dtype=torch.int32), r"are \[2\] of torch.int32; they must be \[3\]"),
        (SPEC, torch.tensor([0, 2, 1], dtype=torch.int32), "token 1 has adapter 2; .* 0 to 1"),
        (SPEC, torch.tensor([-2, 1, 1], dtype=torch.int32), "token 0 has adapter -2"),
    ],
)
def test_a_choice_that_does_not_fit_is_an_error(spec, chosen, text):
    with pytest.raises(MoEError, match=text):
        check_choice(spec, 3, chosen)
