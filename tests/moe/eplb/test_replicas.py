"""The choice of a replica: by row and expert alone, as the reference has it, and evenly."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from moe.eplb.replicas import ReplicaMap
from moe.placement import Placement
from moe.reference.replicas import physical_ids
from moe.types import Routing

CPU = torch.device("cpu")


@st.composite
def placements(draw):
    experts, ranks = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    per_rank = -(-experts // ranks) + draw(st.integers(0, 2))
    extra = ranks * per_rank - experts
    more = draw(st.lists(st.integers(0, experts - 1), min_size=extra, max_size=extra))
    held = draw(st.permutations([*range(experts), *more]))
    return Placement(
        num_experts=experts, physical_to_logical=tuple(held), counts=(per_rank,) * ranks
    )


def routed(ids, placement):
    routing = Routing(topk_ids=ids.int(), topk_weights=torch.ones(ids.shape))
    return ReplicaMap.of(placement, CPU).route(routing).topk_ids


@given(placements(), st.integers(0, 40), st.integers(1, 3), st.integers(0, 2**31 - 1))
def test_the_layer_and_the_reference_choose_the_same_replicas(placement, rows, k, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, placement.num_experts + 2, (rows, k), generator=generator)
    sent = routed(ids, placement)
    assert sent.dtype == torch.int32
    assert torch.equal(sent.long(), physical_ids(ids, placement))
    is_held = (ids >= 0) & (ids < placement.num_experts)
    assert (sent[ids < 0] == -1).all(), "padding goes nowhere"
    held = torch.tensor(placement.physical_to_logical)
    beyond = sent[ids >= placement.num_experts] - len(held)
    assert torch.equal(beyond.long(), ids[ids >= placement.num_experts] - placement.num_experts)
    assert torch.equal(held[sent[is_held].long()], ids[is_held])


def test_every_second_and_third_row_is_spread_over_the_replicas_too():
    held = (0, 1, 2, 3, 0, 1, 0, 0)
    placement = Placement(num_experts=4, physical_to_logical=held, counts=(4, 4))
    for step in (1, 2, 3, 4, 5):
        ids = torch.full((64 * step, 1), -1)
        ids[::step] = 0
        sent = routed(ids, placement)[::step].flatten().tolist()
        counts = [sent.count(p) for p in placement.replicas_of(0)]
        assert sum(counts) == 64
        assert max(counts) - min(counts) <= 4, (step, counts)


def test_a_map_is_changed_in_place():
    """A captured graph reads these tensors again."""
    before = Placement(num_experts=2, physical_to_logical=(0, 1, 0, 1), counts=(2, 2))
    after = Placement(num_experts=2, physical_to_logical=(0, 0, 0, 1), counts=(2, 2))
    made = ReplicaMap.of(before, CPU)
    places = made.physical.data_ptr(), made.counts.data_ptr()
    made.follow(after)
    assert (made.physical.data_ptr(), made.counts.data_ptr()) == places
    assert made.physical.tolist() == [[0, 1, 2], [3, -1, -1]]
    assert made.counts.tolist() == [3, 1]
