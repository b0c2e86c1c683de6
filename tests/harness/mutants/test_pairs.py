"""Rows and slots lie together by expert, and ranks by their shards."""

from __future__ import annotations

import pytest
import torch

from harness.mutants.pairs import pairs_of, ranks_together
from tests.harness.mutants.samples import case, scene

IDS = torch.tensor([[5, 2], [-1, 5], [2, 9]])


def test_pairs_are_sorted_by_expert_and_empty_slots_are_left_out():
    pairs = pairs_of(IDS)
    assert pairs.experts == (2, 5, 9)
    assert pairs.counts == [2, 2, 1]
    assert pairs.rows_and_slots.tolist() == [[0, 2, 0, 1, 2], [1, 0, 0, 1, 1]]


def test_pairs_of_some_experts_know_where_they_lie_among_all():
    some, at = pairs_of(IDS).among((9, 2, 7))
    assert (some.experts, at) == ((2, 9), [0, 1, 4])
    assert torch.equal(some.rows_and_slots, pairs_of(IDS).rows_and_slots[:, at])
    none, nowhere = pairs_of(IDS).among((7,))
    assert (none.experts, nowhere) == ((), [])


@pytest.mark.parametrize(
    ("fields", "groups"),
    [
        ({}, [(0,)]),
        ({"tp_size": 2}, [(0, 1)]),
        ({"dp_size": 2, "tp_size": 2}, [(0, 1, 2, 3)]),
        ({"tp_size": 2, "quant": "fp8_tensor"}, [(0, 1)]),  # one scale for all ranks
        ({"tp_size": 2, "quant": "fp8_tensor_dynamic"}, [(0,), (1,)]),
        ({"tp_size": 3}, [(0,), (1,), (2,)]),  # of 256 columns
        ({"dp_size": 2, "use_ep": True}, [(0,), (1,)]),
    ],
)
def test_ranks_with_equal_shards_are_computed_together(fields, groups):
    assert ranks_together(scene(case(**fields))) == groups
