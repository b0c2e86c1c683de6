"""Pairs of tokens and slots by expert, and what enters their first product."""

from __future__ import annotations

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
    assert torch.equal(pairs[2].divisor, torch.tensor([[0.3], [1.0]]))


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
