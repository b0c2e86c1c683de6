"""Placement, map of replicas and counting change together."""

from __future__ import annotations

import torch

from moe.collectives import ALONE
from moe.eplb.slots import Slots
from moe.placement import Placement


def test_what_follows_a_placement_follows_it_at_once():
    before = Placement(num_experts=2, physical_to_logical=(0, 1, 0, 1), counts=(2, 2))
    after = Placement(num_experts=2, physical_to_logical=(1, 1, 0, 1), counts=(2, 2))
    slots = Slots.of(before, 0, {}, window=1, device=torch.device("cpu"))
    assert slots.replicas.counts.tolist() == [2, 2]
    slots.follow(after)
    assert slots.placement == after
    assert slots.replicas.counts.tolist() == [1, 3]
    slots.load.record(torch.tensor([[0], [1]]))
    assert slots.load.total(ALONE) == [0, 2], "by the experts that the slots have now"
