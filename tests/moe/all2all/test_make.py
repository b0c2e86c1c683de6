"""The factory: what it tells a member, and what it refuses."""

import dataclasses

import pytest
import torch

from moe.all2all import ALL2ALL
from moe.all2all.make import holders_of, make_prepare_finalize
from moe.collectives import ALONE, Group
from moe.errors import MoEError
from moe.layout import Layout
from moe.spec import LayerSpec


def layer_spec(layout: Layout) -> LayerSpec:
    return LayerSpec(m=4, hidden=64, intermediate=64, num_experts=5, top_k=2, layout=layout)


def test_a_member_knows_which_rank_of_its_group_holds_which_expert():
    spec = layer_spec(Layout(dp_size=2, tp_size=2, use_ep=True))
    group = Group(handle=None, size=2, rank=0)  # ranks 1 and 3: rank 0 holds two experts of five
    for name, row in ALL2ALL.rows.items():
        member = make_prepare_finalize(name, spec, 1, group)
        assert type(member).__name__ == row.target.rpartition(":")[2]
        assert member.experts_of == ((2,), (4,))
        assert member.holders.int().tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]


def test_ranks_that_share_an_expert_s_columns_all_hold_it():
    member = make_prepare_finalize(
        "all_to_all", layer_spec(Layout(dp_size=2)), 0, Group(handle=None, size=2, rank=0)
    )
    assert bool(member.holders.all())
    held = member.held_by(torch.tensor([[0, -1], [4, 5]]))
    assert held.int().tolist() == [[[1, 0], [1, 0]]] * 2


def test_a_rank_without_experts_holds_none():
    assert holders_of(((0,), ()), 2).int().tolist() == [[1, 0], [0, 0]]


def test_a_capacity_of_no_row_and_another_group_are_errors():
    spec = layer_spec(Layout(dp_size=2, use_ep=True))
    for capacity in (0, -3):
        with pytest.raises(MoEError, match=rf"capacity is {capacity}: .* pass at least 1, or None"):
            make_prepare_finalize("naive", spec, 0, ALONE, capacity=capacity)
    alone = dataclasses.replace(layer_spec(Layout()), capacity=7)
    assert make_prepare_finalize("local", alone, 0, ALONE).capacity == 7
    assert make_prepare_finalize("local", alone, 0, ALONE, capacity=2).capacity == 2
    with pytest.raises(MoEError, match=r"1 rank\(s\), and the layout gathers over 2, ranks 0, 1"):
        make_prepare_finalize("naive", spec, 0, ALONE)


def test_who_holds_what_stays_on_the_device_and_is_not_lost_on_one_without_data():
    member = make_prepare_finalize("local", layer_spec(Layout()), 0, ALONE)
    assert member.known_holders(torch.device("meta")).is_meta
    held = member.known_holders(torch.device("cpu"))
    assert held.all()
    assert member.known_holders(torch.device("cpu")) is held  # no copy, which no graph could have
