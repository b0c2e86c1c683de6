"""Wrong experts and slots; of many, the culprit is found."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.mutants import FEW, named
from harness.mutants.contributions import blamed
from harness.mutants.recompute import (
    redo,
    redo_parts,
)
from tests.harness.mutants.real_layer import SAME, assert_foretold, real
from tests.harness.mutants.samples import (
    MANY_EXPERTS,
    apart,
    assert_no_mistake,
    case,
    scene,
    seen,
)


@pytest.mark.parametrize(
    ("name", "one", "change"),
    [
        ("best_expert_twice", case(top_k=3), lambda i: i[:, [0, 0, 1]].contiguous()),
        ("ids_in_int8", MANY_EXPERTS, lambda i: i.to(torch.int8).int()),
    ],
)
def test_a_mistake_in_the_ids_is_foretold(name, one, change):
    out, here = real(one, change_routing=lambda i, w: (change(i), w))
    foretold = named(name).compute(here)
    assert apart(out[: len(foretold)], foretold) < 0.004
    assert apart(out, here.answer.out) > 0.02


def test_ids_of_all_ranks_taken_for_local_ones():
    """Ranks hold experts 0-1 and 2-3: ids 0 and 1 are computed by both, 2 and 3 by none."""
    here = scene(case(dp_size=2, use_ep=True))
    few = here.first(FEW)
    wanted = torch.zeros_like(few.answer.out)
    for offset in (0, 2):
        ids = torch.where(few.topk_ids < 2, few.topk_ids + offset, -1)
        wanted += redo(few, ids=ids)
    assert apart(named("global_ids_as_local").compute(here), wanted) < SAME


def test_an_offset_that_is_taken_twice_leaves_the_first_rank():
    here = scene(case(dp_size=2, use_ep=True))
    ids = torch.where(here.topk_ids < 2, here.topk_ids, -1)
    wanted = redo(here, ids=ids)
    assert apart(named("offset_taken_twice").compute(here), wanted) < SAME


def test_a_stale_map_computes_the_neighbours_experts():
    here = scene(case(dp_size=2, use_ep=True))
    wanted = redo(here, ids=(here.topk_ids + 2) % 4)
    assert apart(named("stale_expert_map").compute(here), wanted) < SAME


@pytest.mark.parametrize(
    ("name", "experts"), [("absent_as_first", (0, 2)), ("absent_as_last", (1, 3))]
)
def test_slots_of_absent_experts_are_computed_by_another(name, experts):
    here = scene(case(dp_size=2, use_ep=True))
    first, second = experts  # of ranks 0 and 1
    there = torch.where(here.topk_ids < 2, second, first)
    extra = redo(here, ids=there.to(torch.int32))
    wanted = here.answer.out[:FEW] + extra
    assert apart(named(name).compute(here), wanted) < SAME


def test_the_map_gives_the_odd_expert_to_the_last_rank():
    """Ranks hold experts 0-2 and 3-4; by the map the second one's begin with number 2."""
    here = scene(case(dp_size=2, use_ep=True, num_experts=5))
    few = here.first(FEW)
    first = torch.where(few.topk_ids < 3, few.topk_ids, -1)
    second = torch.where((few.topk_ids >= 2) & (few.topk_ids < 4), few.topk_ids + 1, -1)
    wanted = redo(few, ids=first) + redo(few, ids=second)
    assert apart(named("remainder_on_last_rank").compute(here), wanted) < SAME


def test_the_expert_that_was_dropped_is_found():
    right = scene(case(m=12))
    for e in range(4):
        mask = (right.topk_ids != e)[:, :, None]
        share = right.answer.parts.sum(dim=0) * right.topk_weights[:, :, None]
        wrong = (share * mask).sum(dim=1)
        here = seen(right, wrong)
        assert apart(named("expert_dropped").compute(here), wrong) < 1e-5
        assert blamed(here) == f"expert {e}"
        assert blamed(here) == ""


def test_the_expert_that_took_its_neighbours_weights_is_found():
    right = scene(case(m=16))
    here = set(right.topk_ids[:FEW].flatten().tolist())
    assert len(here) > 2
    for e in here:
        ids = torch.where(right.topk_ids == e, (e + 1) % 4, right.topk_ids)
        wrong = right.total(parts=redo_parts(right, ids=ids))
        out = named("expert_from_neighbour").compute(seen(right, wrong))
        assert apart(out, wrong[: len(out)]) < SAME, e


IN_ROUTING = [
    ("ids_off_by_one", lambda i, w: ((i + 1) % 4, w)),
    ("ids_one_too_low", lambda i, w: ((i - 1) % 4, w)),
    ("last_slot_dropped", lambda i, w: (torch.where(torch.tensor([True, False]), i, -1), w)),
    ("slots_overwritten", lambda i, w: (i[:, :1].expand(i.shape).contiguous(), w)),
]


@pytest.mark.parametrize(("name", "change"), IN_ROUTING)
def test_a_mistake_in_the_routing_is_foretold(name, change):
    assert_foretold(name, case(), change_routing=change)


NO_MISTAKE = [
    ("last_slot_dropped", case(top_k=1), "top-k is 1"),
    ("slots_overwritten", case(top_k=1), "top-k is 1"),
    ("only_best_expert", case(top_k=2), "a dropped last slot"),
    ("best_expert_twice", case(), "below top-k 3"),
    ("ids_in_int8", case(), "no rank has more than 128 experts"),
    ("remainder_on_last_rank", case(dp_size=2, use_ep=True), "divide the experts evenly"),
    ("global_ids_as_local", case(tp_size=2), "every rank has all experts"),
    ("stale_expert_map", case(use_ep=True), "every rank has all experts"),
    ("expert_from_neighbour", case(num_experts=1, top_k=1), "one expert only"),
    ("ids_off_by_one", case(num_experts=1, top_k=1), "one expert only"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)


def test_the_suspect_is_sought_among_all_rows_though_only_one_is_computed():
    right = scene(case(m=16))
    suspect = int(right.topk_ids[0, 0])  # of row 0 alone the last slot would be blamed
    ids = torch.where(right.topk_ids == suspect, (suspect + 1) % 4, right.topk_ids)
    wrong = right.total(parts=redo_parts(right, ids=ids))
    one_row = dataclasses.replace(seen(right, wrong), few=1)
    predicted = named("expert_from_neighbour").compute(one_row)
    assert len(predicted) == 1
    assert apart(predicted, wrong[:1]) < 1e-3
    assert blamed(one_row) == f"expert {suspect}"
