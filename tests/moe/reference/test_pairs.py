"""Pairs of tokens and slots by expert, and what enters their first product."""

from __future__ import annotations

import itertools

import pytest
import torch

from moe.numerics import Numerics
from moe.reference.pairs import largest_input, pairs_of, weighted_input

IDS = torch.tensor([[2, 0], [-1, 2], [-1, -1]])
WEIGHTS = torch.tensor([[0.3, 0.7], [9.0, 0.0], [9.0, 9.0]])
X = torch.tensor([[1.0, -4.0], [2.0, 64.0], [500.0, 1.0]])
ON_INPUT = Numerics.stated(weight_on="input")


def test_each_chosen_expert_has_its_pairs():
    pairs = {p.e: p for p in pairs_of(IDS, WEIGHTS, 4)}
    assert list(pairs) == [0, 2]
    assert (pairs[2].rows.tolist(), pairs[2].slots.tolist()) == ([0, 1], [0, 1])
    assert torch.equal(pairs[2].weight, torch.tensor([0.3, 0.0]))


def one_by_one(ids, num_experts, adapters, owners):
    """(e, adapter, owner, rows, slots) of each expert that has pairs, found one after another."""
    numbers = [-1] if adapters is None else sorted(set(adapters.tolist()))
    ranks = [-1] if owners is None else sorted(set(owners.flatten().tolist()))
    for e, number, owner in itertools.product(range(num_experts), numbers, ranks):
        found = ids == e
        if adapters is not None:
            found = found & (adapters == number)[:, None]
        if owners is not None:
            found = found & (owners == owner)
        rows, slots = (t.tolist() for t in found.nonzero(as_tuple=True))
        if rows:
            yield e, number, owner, rows, slots


@pytest.mark.parametrize("with_owners", [False, True])
@pytest.mark.parametrize("with_adapters", [False, True])
@pytest.mark.parametrize(("tokens", "top_k"), [(0, 2), (1, 1), (7, 3), (40, 8)])
def test_pairs_are_those_found_for_one_expert_after_another(
    tokens, top_k, with_adapters, with_owners
):
    """Of ids with -1, ids of experts beyond those that are held, and one chosen twice."""
    generator = torch.Generator().manual_seed(tokens)

    def drawn(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator, dtype=torch.int32)

    ids = drawn(-1, 12, tokens, top_k)
    adapters = drawn(-1, 3, tokens) if with_adapters else None
    owners = drawn(0, 4, tokens, top_k) if with_owners else None
    weights = torch.rand(tokens, top_k, generator=generator)
    found = list(pairs_of(ids, weights, 10, adapters, owners))
    parts = [(p.e, p.adapter, p.owner, p.rows.tolist(), p.slots.tolist()) for p in found]
    assert parts == list(one_by_one(ids, 10, adapters, owners))
    assert all(torch.equal(p.weight, weights[p.rows, p.slots]) for p in found)


def test_rows_are_weighted_in_float32_and_rounded_if_that_is_declared():
    (pair,) = (p for p in pairs_of(IDS, WEIGHTS, 4) if p.e == 0)
    assert torch.equal(weighted_input(X, pair, ON_INPUT, "bf16"), X[:1] * 0.7)
    rounded = Numerics.stated(weight_on="input", weighted="model")
    assert torch.equal(weighted_input(X, pair, rounded, "bf16"), (X[:1] * 0.7).bfloat16().float())


def test_the_largest_input_is_that_of_the_weighted_rows_that_are_used():
    pairs = list(pairs_of(IDS, WEIGHTS, 4))
    assert float(largest_input(X, pairs, Numerics.stated(), "bf16")) == 500.0
    assert torch.equal(largest_input(X, pairs, ON_INPUT, "bf16"), torch.tensor([[4 * 0.7]]))
    assert float(largest_input(X[:0], [], ON_INPUT, "bf16")) == 0.0
