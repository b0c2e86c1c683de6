"""Which weights move from one placement to another, and that no others do."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.eplb.difference import check_complete, kept_in_place, moves, rotated, without_rank
from moe.errors import MoEError
from moe.placement import Placement


@st.composite
def pairs(draw):
    """Two placements of the same experts on the same slots."""
    ranks, slots, experts = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 6)),
    )
    total = max(ranks * slots, -(-experts // ranks) * ranks)
    extra = st.lists(
        st.integers(0, experts - 1), min_size=total - experts, max_size=total - experts
    )

    def placement():
        held = draw(st.permutations([*range(experts), *draw(extra)]))
        counts = (total // ranks,) * ranks
        return Placement(num_experts=experts, physical_to_logical=tuple(held), counts=counts)

    return placement(), placement()


@given(pairs())
def test_moves_lead_from_one_placement_to_the_other(pair):
    before, after = pair
    held = [list(before.experts_of(rank)) for rank in range(len(before.counts))]
    for move in moves(before, after):
        assert before.experts_of(move.from_rank)[move.from_slot] == move.expert
        for slot in move.to_slots:
            assert held[move.to_rank][slot] != move.expert, "what is there is not sent"
            held[move.to_rank][slot] = move.expert
    assert [tuple(experts) for experts in held] == [
        after.experts_of(rank) for rank in range(len(after.counts))
    ]


@given(pairs())
def test_an_expert_is_sent_once_to_a_rank_and_never_to_one_that_has_it(pair):
    before, after = pair
    sent = [(m.expert, m.to_rank) for m in moves(before, after) if not m.is_local]
    assert len(set(sent)) == len(sent)
    assert all(expert not in before.experts_of(rank) for expert, rank in sent)


@given(pairs())
def test_what_stays_on_a_rank_stays_in_its_slot(pair):
    before, after = pair
    kept = kept_in_place(before, after.physical_to_logical)
    assert moves(before, before) == ()
    for rank in range(len(before.counts)):
        old, new = before.experts_of(rank), kept.experts_of(rank)
        assert sorted(new) == sorted(after.experts_of(rank))
        moved = sum(a != b for a, b in zip(old, new, strict=True))
        missing = [e for e in set(new) for _ in range(max(0, new.count(e) - old.count(e)))]
        assert moved == len(missing), "no slot changes without need"


@given(pairs())
def test_replicas_send_in_turn(pair):
    before, after = pair
    senders: dict[int, list[int]] = {}
    for move in moves(before, after):
        if not move.is_local:
            senders.setdefault(move.expert, []).append(move.from_rank)
    for expert, ranks in senders.items():
        owners = before.owners(expert)
        assert ranks == [owners[i % len(owners)] for i in range(len(ranks))]


def placement(held, counts=(2, 2)):
    return Placement(num_experts=3, physical_to_logical=tuple(held), counts=counts)


def test_ranks_take_over_each_other_s_experts():
    assert rotated(placement((0, 1, 2, 0))).physical_to_logical == (2, 0, 0, 1)
    with pytest.raises(MoEError, match=r"ranks with \(3, 1\) slots cannot take over"):
        rotated(placement((0, 1, 2, 0), (3, 1)))


def test_placements_that_do_not_follow_each_other_are_refused():
    before = placement((0, 1, 2, 0))
    with pytest.raises(MoEError, match="must be of the same layer"):
        moves(before, placement((0, 1, 2, 0), (3, 1)))
    with pytest.raises(MoEError, match="expert 2 has no slot"):
        moves(before, placement((0, 1, 1, 0)))
    check_complete(before)
    with pytest.raises(MoEError, match="expert 3 has no slot"):
        check_complete(dataclasses.replace(before, num_experts=4))


@given(pairs(), st.integers(0, 3))
def test_the_ranks_left_hold_every_expert_or_there_are_too_few_slots(pair, rank):
    before = pair[0]
    lost = rank % len(before.counts)
    left = sum(before.counts) - before.counts[lost]
    if left < before.num_experts:
        with pytest.raises(MoEError, match="use more redundant ones"):
            without_rank(before, lost)
        return
    after, again = without_rank(before, lost)
    check_complete(after)
    assert len(after.physical_to_logical) == left
    assert set(again) == set(range(before.num_experts)) - {
        e for r in range(len(before.counts)) if r != lost for e in before.experts_of(r)
    }
    kept = [e for r in range(len(before.counts)) if r != lost for e in before.experts_of(r)]
    changed = sum(a != b for a, b in zip(kept, after.physical_to_logical, strict=True))
    assert changed == len(again)
