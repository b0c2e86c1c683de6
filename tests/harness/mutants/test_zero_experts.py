"""Zero experts left out, weighted wrongly, added once per rank, or computed as an expert."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.mutants import FEW, NotApplicable, named
from harness.mutants.recompute import (
    redo,
)
from harness.mutants.self_check import prove
from harness.record.proof import Outcome
from tests.harness.mutants.real_layer import SAME
from tests.harness.mutants.samples import apart, assert_no_mistake, case, scene

ZERO = case(top_k=3, zero_experts=3)


def by_hand(here, weigh):
    """[r, K]: each token times what `weigh` makes of its weights of ids from 4 on."""
    rows = []
    for x, ids, weights in zip(here.x.float(), here.topk_ids, here.topk_weights, strict=True):
        pairs = zip(ids.tolist(), weights.tolist(), strict=True)
        rows.append(x * sum(weigh(w) for e, w in pairs if e >= 4))
    return torch.stack(rows)


def test_the_scene_has_zero_experts_and_others():
    here = scene(ZERO)
    is_zero = here.topk_ids >= 4
    assert bool(is_zero.any())
    assert bool((~is_zero).any())
    assert torch.equal(here.expert_ids[is_zero], torch.full_like(here.topk_ids[is_zero], -1))


@pytest.mark.parametrize(
    ("name", "weigh"),
    [
        ("zero_experts_missing", lambda w: 0.0),
        ("zero_experts_unweighted", lambda w: 1.0),
        ("zero_experts_weighted_twice", lambda w: w * w),
    ],
)
def test_the_token_is_added_by_another_weight(name, weigh):
    here = scene(ZERO)
    routed = here.answer.out - by_hand(here, lambda w: w)
    assert apart(named(name).compute(here), routed + by_hand(here, weigh)) < SAME


def test_the_first_zero_expert_may_be_left_out():
    here = scene(ZERO)
    rest = dataclasses.replace(here, topk_ids=here.topk_ids.masked_fill(here.topk_ids == 4, -1))
    assert not torch.equal(rest.topk_ids, here.topk_ids)
    routed = here.answer.out - by_hand(here, lambda w: w)
    wanted = routed + by_hand(rest, lambda w: w)
    assert apart(named("first_zero_expert_missing").compute(here), wanted) < SAME


def test_the_routers_factor_may_be_left_out():
    here = scene(ZERO.replace(router_scale=2.5))
    routed = here.answer.out - by_hand(here, lambda w: w)
    wanted = routed + by_hand(here, lambda w: w / 2.5)
    assert apart(named("zero_experts_unscaled").compute(here), wanted) < SAME


def test_added_before_the_all_reduce_they_count_once_per_rank():
    here = scene(ZERO.replace(tp_size=2))
    wanted = here.answer.out + by_hand(here, lambda w: w)
    assert apart(named("zero_experts_once_per_rank").compute(here), wanted) < SAME


def test_their_slots_may_be_computed_with_the_first_expert():
    here = scene(ZERO)
    few = here.first(FEW)
    ids = torch.where(few.topk_ids >= 4, 0, few.topk_ids)
    wanted = redo(here, ids=ids) - by_hand(few, lambda w: w)
    assert apart(named("zero_experts_as_first").compute(here), wanted) < SAME


def test_the_sum_of_the_parts_is_the_answer():
    here = scene(ZERO)
    assert apart(here.total(), here.answer.out) < SAME
    assert apart(redo(here), here.answer.out[:FEW]) < SAME


@pytest.mark.parametrize(
    ("name", "one", "why"),
    [
        ("zero_experts_missing", case(), "no zero experts"),
        ("zero_experts_once_per_rank", ZERO, "no other rank holds the same tokens"),
        ("zero_experts_as_first", case(), "no zero experts"),
        ("zero_experts_unscaled", ZERO, "the router's factor is one"),
    ],
)
def test_where_there_is_no_mistake(name, one, why):
    assert_no_mistake(name, one, why)


def first_row_is_passed_on():
    """A scene whose first token has a zero expert alone, and whose second one has an expert."""
    for seed in range(40):
        here = scene(case(m=8, top_k=1, zero_experts=4, renormalize=False, seed=seed))
        if int(here.topk_ids[0, 0]) >= 4 and int(here.topk_ids[1:FEW].min()) < 4:
            return here
    raise AssertionError("no seed has such tokens")


def test_a_mistake_of_an_expert_is_tried_on_rows_that_have_one():
    here = first_row_is_passed_on()
    with pytest.raises(NotApplicable, match="these rows have zero experts only"):
        named("gate_up_swapped").compute(here.first(1))
    outcome = {proof.name: proof.outcome for proof in prove(here)}
    assert outcome["gate_up_swapped"] is Outcome.CAUGHT
    assert outcome["zero_experts_missing"] is Outcome.CAUGHT
