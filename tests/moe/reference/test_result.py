"""The sums of a call, and what of them is kept for some rows."""

from __future__ import annotations

import torch

from moe.reference.pairs import Pairs
from moe.reference.result import empty_sums, record_parts

X = torch.ones(4, 3)
PAIRS = Pairs(
    e=1,
    rows=torch.tensor([0, 2, 3]),
    slots=torch.tensor([1, 0, 1]),
    weight=torch.ones(3),
)


def test_only_the_requested_rows_are_kept_in_their_order():
    sums = empty_sums(X, 2, 2, torch.tensor([3, 1, 0]))
    parts = torch.arange(9.0).reshape(1, 3, 3) + 1
    record_parts(sums, PAIRS, slice(1, 2), parts)
    expected = torch.zeros(2, 3, 2, 3)
    expected[1, 0, 1], expected[1, 2, 1] = parts[0, 2], parts[0, 0]
    assert torch.equal(sums.parts, expected)


def test_nothing_is_kept_if_nothing_is_requested():
    sums = empty_sums(X, 2, 2, None)
    record_parts(sums, PAIRS, slice(0, 1), torch.ones(1, 3, 3))
    assert sums.parts.shape == (2, 0, 2, 3)
    assert sums.partial.shape == (2, 4, 3)
    assert not sums.variance.any()
