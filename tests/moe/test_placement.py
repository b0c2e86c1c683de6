"""Physical experts stand for logical ones, on the ranks and in the order that a placement says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.layout import Layout
from moe.placement import Placement, linear

layouts = st.builds(
    Layout, dp_size=st.integers(1, 4), tp_size=st.integers(1, 4), use_ep=st.booleans()
)


@st.composite
def shuffled(draw):
    """Each of some experts once, in any order, on any of some ranks."""
    experts = draw(st.permutations(range(draw(st.integers(1, 12)))))
    cuts = sorted(draw(st.lists(st.integers(0, len(experts)), max_size=4)))
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, len(experts)], strict=True)]
    return Placement(
        num_experts=len(experts), physical_to_logical=tuple(experts), counts=tuple(counts)
    )


placements = st.one_of(st.builds(linear, layouts, st.integers(1, 40)), shuffled())


@given(placements)
def test_every_logical_expert_is_owned_once(placement):
    owners = [placement.owners(e) for e in range(placement.num_experts)]
    assert all(len(ranks) == 1 for ranks in owners)
    assert sorted(placement.physical_to_logical) == list(range(placement.num_experts))


@given(placements)
def test_the_maps_are_each_other_s_inverse(placement):
    for ep_rank in range(len(placement.counts)):
        experts, local = placement.experts_of(ep_rank), placement.expert_map(ep_rank)
        assert [local[e] for e in experts] == list(range(len(experts)))
        assert {e for e in range(placement.num_experts) if local[e] >= 0} == set(experts)
        assert all(ep_rank in placement.owners(e) for e in experts)


@given(placements)
def test_physical_experts_are_numbered_through_the_ranks(placement):
    ranks = range(len(placement.counts))
    numbers = [p for ep_rank in ranks for p in placement.physical_of(ep_rank)]
    assert numbers == list(range(len(placement.physical_to_logical)))
    for ep_rank in ranks:
        held = [placement.physical_to_logical[p] for p in placement.physical_of(ep_rank)]
        assert tuple(held) == placement.experts_of(ep_rank)


@given(layouts, st.integers(1, 40))
def test_a_linear_placement_spreads_experts_in_order_and_evenly(layout, num_experts):
    placement = linear(layout, num_experts)
    assert placement.physical_to_logical == tuple(range(num_experts))
    assert len(placement.counts) == (layout.world_size if layout.use_ep else 1)
    assert max(placement.counts) - min(placement.counts) <= 1
    assert list(placement.counts) == sorted(placement.counts, reverse=True)


def test_an_expert_held_twice_has_two_owners():
    placement = Placement(num_experts=2, physical_to_logical=(0, 1, 1), counts=(1, 1, 1))
    assert [placement.owners(e) for e in (0, 1)] == [(0,), (1, 2)]


@pytest.mark.parametrize(
    ("experts", "counts", "text"),
    [
        ((0, 1), (1, 2), "hold (1, 2) physical experts, but physical_to_logical has 2 entries; "),
        ((0, 2), (1, 1), "physical_to_logical contains expert 2; ids must be from 0 to 1"),
    ],
)
def test_a_placement_that_contradicts_itself_is_refused(experts, counts, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        Placement(num_experts=2, physical_to_logical=experts, counts=counts)
