"""Tokens and weights that lost each other in a rebalance: the output under each mistake."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.mutants import FEW, NotApplicable, named
from harness.mutants.contributions import by_slot
from moe.placement import Placement
from moe.reference.replicas import replica
from tests.harness.mutants.samples import case, scene

EP = {"m": 8, "dp_size": 2, "use_ep": True, "eplb": "global", "redundant": 2}
WAS = Placement(num_experts=4, physical_to_logical=(0, 1, 2, 3, 0, 1), counts=(3, 3))
NOW = Placement(num_experts=4, physical_to_logical=(2, 1, 3, 0, 2, 1), counts=(3, 3))


def moved(earlier=(WAS,), **fields):
    there = scene(case(**{**EP, **fields}))
    return dataclasses.replace(there, placement=NOW, earlier=earlier, memo={})


def slot_of(row, expert, placement):
    replicas = placement.replicas_of(expert)
    return replicas[replica(row, expert, len(replicas))]


def output_of(here, other):
    """The reference's output if `other(row, expert)` computes in place of each expert."""
    ids = here.topk_ids.clone()
    for i, row in enumerate(here.rows.tolist()):
        ids[i] = torch.tensor([other(row, e) for e in here.topk_ids[i].tolist()])
    return here.reference(here.x, ids, here.topk_weights, like=here.answer).out


def test_tokens_go_where_their_experts_were():
    here = moved()
    wrong = output_of(here, lambda row, e: NOW.physical_to_logical[slot_of(row, e, WAS)])
    torch.testing.assert_close(named("stale_replica_map").compute(here), wrong)


def test_ids_of_experts_are_taken_for_slots():
    here = moved()
    wrong = output_of(here, lambda row, e: NOW.physical_to_logical[e])
    torch.testing.assert_close(named("logical_ids_as_physical").compute(here), wrong)
    in_order = dataclasses.replace(here, placement=WAS)
    with pytest.raises(NotApplicable, match="in the slot of its own number"):
        named("logical_ids_as_physical").compute(in_order)


def test_experts_are_still_where_they_were():
    here = moved()
    wrong = output_of(here, lambda row, e: WAS.physical_to_logical[slot_of(row, e, NOW)])
    torch.testing.assert_close(named("weights_not_moved").compute(here), wrong)


def test_the_earlier_placement_that_explains_the_output_is_taken():
    first = Placement(num_experts=4, physical_to_logical=(3, 2, 1, 0, 3, 2), counts=(3, 3))
    here = moved((first, WAS))
    wrong = output_of(here, lambda row, e: NOW.physical_to_logical[slot_of(row, e, first)])
    here = dataclasses.replace(here, actual=wrong.to(here.actual.dtype))
    torch.testing.assert_close(named("stale_replica_map").compute(here), wrong)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("scales_left_behind", {"quant": "fp8_channel"}),
        ("scales_left_behind", {"quant": "int4_g32"}),
        ("biases_left_behind", {"expert_bias": True}),
    ],
)
def test_what_stays_behind_changes_the_rows_of_moved_experts_alone(name, fields):
    here = moved(**fields)
    wrong, few = named(name).compute(here), here.first(FEW)
    assert len(wrong) == FEW
    is_moved = torch.tensor(
        [
            any(WAS.physical_to_logical[slot_of(row, e, NOW)] != e for e in experts)
            for row, experts in zip(few.rows.tolist(), few.topk_ids.tolist(), strict=True)
        ]
    )
    distance = (wrong - few.answer.out).norm(dim=1) / few.answer.out.norm(dim=1)
    assert bool((distance[is_moved] > 0.01).all())
    assert bool((distance[~is_moved] < 1e-5).all())


def test_a_replica_that_no_rank_adds_or_both_do_is_told():
    here = scene(case(**{**EP, "dp_size": 1, "tp_size": 2}))
    here = dataclasses.replace(here, placement=NOW, earlier=(WAS,), memo={})
    slots = by_slot(here)
    times = torch.ones(here.topk_ids.shape)
    replicated = torch.isin(here.topk_ids, torch.tensor([1, 2]))
    times[replicated] = torch.tensor([0.0, 2.0]).repeat(100)[: int(replicated.sum())]
    wrong = (slots * times[:, :, None]).sum(dim=1)
    here = dataclasses.replace(here, actual=wrong)
    torch.testing.assert_close(named("replicas_disagree").compute(here), wrong)


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("scales_left_behind", {}, "nothing is quantized"),
        ("biases_left_behind", {}, "the layer has no biases"),
        ("replicas_disagree", {}, "no ranks hold the same tokens"),
    ],
)
def test_a_mistake_that_a_case_cannot_have_does_not_apply(name, fields, text):
    with pytest.raises(NotApplicable, match=text):
        named(name).compute(moved(**fields))


def test_nothing_applies_where_nothing_has_moved():
    with pytest.raises(NotApplicable, match="no expert of these rows has moved"):
        named("stale_replica_map").compute(moved((NOW,)))
    plain = scene(case(m=8))
    with pytest.raises(NotApplicable, match="does not balance its load"):
        named("weights_not_moved").compute(plain)
