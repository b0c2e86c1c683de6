"""Loads are counted by logical expert, over a window of calls, across rebalances."""

from __future__ import annotations

import torch

from moe.collectives import ALONE
from moe.eplb.load import LoadWindow
from moe.placement import Placement


def window(size):
    made = LoadWindow(3, size, torch.device("cpu"))
    made.follow(Placement(num_experts=3, physical_to_logical=(2, 0, 2, 1), counts=(3, 1)), 0)
    return made


def test_replicas_on_a_rank_count_for_their_expert_and_missing_ids_for_none():
    load = window(1)
    load.record(torch.tensor([[0, 2], [1, -1], [-1, -1], [2, 0]]))
    assert load.total(ALONE) == [1, 0, 4]


def test_a_window_holds_the_last_calls_only():
    load = window(2)
    for slot in (0, 1, 1):
        load.record(torch.tensor([[slot]]))
    assert load.total(ALONE) == [2, 0, 0]


def test_a_window_reaches_back_beyond_a_rebalance():
    load = window(2)
    load.record(torch.tensor([[0], [0]]))  # expert 2
    load.follow(Placement(num_experts=3, physical_to_logical=(1, 0, 2, 0), counts=(3, 1)), 0)
    load.record(torch.tensor([[0]]))  # expert 1
    assert load.total(ALONE) == [0, 1, 2]


def test_a_call_without_rows_counts_as_a_call():
    load = window(1)
    load.record(torch.tensor([[0]]))
    load.record(torch.empty((0, 2), dtype=torch.int32))
    assert load.total(ALONE) == [0, 0, 0]
