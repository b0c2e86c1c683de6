"""The sums of a call, and what of them is kept for some rows."""

from __future__ import annotations

import dataclasses

import torch

from moe.reference.joined_pairs import joined
from moe.reference.pairs import Pairs
from moe.reference.result import empty_sums, record_parts
from moe.spec import LayerSpec, Scheme

X = torch.ones(4, 3)
SPEC = LayerSpec(
    m=4,
    hidden=3,
    intermediate=5,
    num_experts=2,
    top_k=2,
    scheme=Scheme(weights="model", activations="model"),
)
PAIRS = Pairs(
    e=1,
    rows=torch.tensor([0, 2, 3]),
    slots=torch.tensor([1, 0, 1]),
    weight=torch.ones(3),
)


def on_rank(rank):
    """The pairs of an expert that this rank holds."""
    (pairs,) = joined([PAIRS], SPEC, 0)
    return dataclasses.replace(pairs, ranks=slice(rank, rank + 1))


def test_only_the_requested_rows_are_kept_in_their_order():
    sums = empty_sums(X, 2, 2, torch.tensor([3, 1, 0]))
    parts = torch.arange(9.0).reshape(1, 3, 3) + 1
    record_parts(sums, on_rank(1), parts)
    expected = torch.zeros(2, 3, 2, 3)
    expected[1, 0, 1], expected[1, 2, 1] = parts[0, 2], parts[0, 0]
    assert torch.equal(sums.parts, expected)


def test_nothing_is_kept_if_nothing_is_requested():
    sums = empty_sums(X, 2, 2, None)
    record_parts(sums, on_rank(0), torch.ones(1, 3, 3))
    assert sums.parts.shape == (2, 0, 2, 3)
    assert sums.partial.shape == (2, 4, 3)
    assert not sums.variance.any()
