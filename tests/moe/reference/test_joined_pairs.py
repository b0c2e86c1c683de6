"""Pairs of experts that are computed together: which, how many, and where their values go."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from moe.layout import Layout
from moe.numerics import Numerics
from moe.reference import joined_pairs
from moe.reference.joined_pairs import joined
from moe.reference.layer import BaselineSiluAndMul
from moe.reference.pairs import pairs_of
from moe.spec import LayerSpec, Scheme

TOKENS, HIDDEN, INTER, EXPERTS, TOP_K = 9, 24, 16, 6, 3
GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(TOKENS, HIDDEN, generator=GENERATOR)
IDS = torch.rand(TOKENS, EXPERTS, generator=GENERATOR).topk(TOP_K).indices.int()
WEIGHTS = torch.rand(TOKENS, TOP_K, generator=GENERATOR)
WEIGHTS[2, 1] = 0.0
SPEC = LayerSpec(
    m=TOKENS,
    hidden=HIDDEN,
    intermediate=INTER,
    num_experts=EXPERTS,
    top_k=TOP_K,
    scheme=Scheme(weights="model", activations="model"),
)
EXPERT_WEIGHTS = [
    (torch.randn(2 * INTER, HIDDEN, generator=GENERATOR), torch.randn(HIDDEN, INTER) / 4)
    for _ in range(EXPERTS)
]
ALL = list(pairs_of(IDS, WEIGHTS, EXPERTS))


@pytest.fixture
def alone(monkeypatch):
    """Compute one expert after the other, as if there were no memory for two."""
    monkeypatch.setattr(joined_pairs, "TOGETHER", {"cpu": 1})


def with_layout(**sizes):
    return dataclasses.replace(SPEC, layout=Layout(**sizes))


def test_experts_that_the_same_ranks_hold_are_joined():
    (every,) = joined(ALL, with_layout(tp_size=2), 0)
    assert every.key == tuple((e, -1, -1) for e in range(EXPERTS))
    assert (every.ranks, every.columns) == (slice(0, 2), (range(8), range(8, 16)))
    by_rank = joined(ALL, with_layout(dp_size=2, use_ep=True), 0)
    assert [[e for e, _, _ in part.key] for part in by_rank] == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(torch.cat([part.rows for part in by_rank]), every.rows)
    assert [IDS[row, slot] for row, slot in zip(every.rows, every.slots, strict=True)] == [
        every.key[i][0] for i in every.which.tolist()
    ]


def test_no_more_is_joined_than_memory_allows(monkeypatch, alone):
    assert [part.key for part in joined(ALL, SPEC, 0)] == [((p.e, -1, -1),) for p in ALL]
    rows = joined_pairs.COPIES * TOKENS * (2 * INTER + 2 * HIDDEN)
    two = 2 * (3 * INTER * HIDDEN + rows)
    monkeypatch.setattr(joined_pairs, "TOGETHER", {"cpu": two})
    assert max(len(part.each) for part in joined(ALL, SPEC, 0)) in (2, 3)


def test_values_of_pairs_are_summed_by_their_tokens():
    (every,) = joined(ALL, SPEC, 0)
    values = torch.randn(2, len(every.rows), generator=GENERATOR)
    expected = torch.zeros(2, TOKENS).index_add_(1, every.rows, values)
    assert torch.allclose(every.by_slot(values, TOKENS, TOP_K), expected, atol=1e-6)
    rows = values[:, :, None].expand(-1, -1, 4)
    sums = torch.ones(2, TOKENS, 4)
    every.add_rows(sums, rows)
    assert torch.allclose(sums, 1 + expected[:, :, None].expand(-1, -1, 4), atol=1e-6)


def test_a_router_weight_of_zero_divides_nothing():
    (every,) = joined(ALL, SPEC, 0)
    zero = (every.rows == 2) & (every.slots == 1)
    assert every.divisor[zero].tolist() == [[1.0]]
    assert torch.equal(every.divisor[~zero][:, 0], every.weight[~zero])


@pytest.mark.parametrize("weights", ["model", "fp8_block", "nvfp4"])
@pytest.mark.parametrize("sizes", [{}, {"tp_size": 2}, {"dp_size": 2, "use_ep": True}])
def test_an_answer_does_not_depend_on_how_many_are_joined(monkeypatch, weights, sizes):
    activations = {"model": "model", "fp8_block": "fp8_group", "nvfp4": "model"}[weights]
    scheme = Scheme(weights=weights, activations=activations)
    spec = dataclasses.replace(with_layout(**sizes), scheme=scheme)
    numerics = Numerics.stated(gemm1="model", activation="model", expert="model")
    reference = BaselineSiluAndMul(spec, numerics, EXPERT_WEIGHTS.__getitem__)
    together = reference(X, IDS, WEIGHTS, keep=torch.arange(TOKENS))
    monkeypatch.setattr(joined_pairs, "TOGETHER", {"cpu": 1})
    apart = reference(X, IDS, WEIGHTS, keep=torch.arange(TOKENS))
    for name in ("out", "variance", "flips", "amax2", "parts", "along"):
        a, b = getattr(together, name), getattr(apart, name)
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6), name
