"""The reference's own choice of replicas, and which EP rank they are on."""

from __future__ import annotations

import torch

from moe.placement import Placement
from moe.reference.replicas import owners, physical_ids, replica

PLACEMENT = Placement(num_experts=3, physical_to_logical=(0, 1, 2, 0, 0, 1), counts=(2, 2, 2))


def test_only_row_expert_and_count_decide():
    chosen = [replica(row, 0, 3) for row in range(300)]
    assert set(chosen) == {0, 1, 2}
    assert max(chosen.count(i) for i in range(3)) <= 102
    assert [replica(row, 5, 1) for row in range(9)] == [0] * 9
    assert [replica(row, 1, 3) for row in range(30)] != chosen[:30], "experts do not march in step"


def test_physical_ids_stand_for_the_chosen_experts():
    ids = torch.tensor([[0, 1], [2, -1], [0, 7]])
    physical = physical_ids(ids, PLACEMENT)
    held = torch.tensor([*PLACEMENT.physical_to_logical, -1])
    assert held[physical[:2]].tolist() == [[0, 1], [2, -1]]
    assert (held[physical[2, 0]], physical[2, 1]) == (0, 6 + 7 - 3), "beyond, as a zero expert is"
    assert physical_ids(ids[2:], PLACEMENT, torch.tensor([2])).tolist() == physical[2:].tolist()
    assert physical_ids(ids[:0], PLACEMENT).shape == (0, 2)


def test_owners_are_the_ep_ranks_of_the_slots():
    physical = torch.tensor([[0, 3], [5, -1], [6, 10]])
    assert owners(physical, PLACEMENT).tolist() == [[0, 1], [2, -1], [-1, -1]]
