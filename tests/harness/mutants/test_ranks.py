"""Sums over ranks: what is missing adds up, and the rank that is missing is found."""

from __future__ import annotations

import dataclasses

import pytest

from harness.mutants import named
from harness.mutants.contributions import blamed
from tests.harness.mutants.real_layer import SAME
from tests.harness.mutants.samples import (
    apart,
    assert_no_mistake,
    case,
    scene,
    seen,
)


@pytest.mark.parametrize("layout", [{"tp_size": 2}, {"dp_size": 2, "tp_size": 2, "use_ep": True}])
def test_what_the_tp_ranks_hold_before_the_all_reduce_adds_up(layout):
    one = case(shared_experts=1, **layout)
    outs = [named("all_reduce_missing").compute(scene(one, rank)) for rank in (0, 1)]
    right = scene(one).answer.out
    assert min(apart(out, right) for out in outs) > 0.02
    assert apart(sum(outs), right) < SAME


def test_what_the_dp_ranks_hold_before_the_reduce_scatter_adds_up():
    right = scene(case(dp_size=2, tp_size=2, use_ep=True))
    elsewhere = dataclasses.replace(right, rank=2)
    outs = [named("reduce_scatter_missing").compute(s) for s in (right, elsewhere)]
    assert apart(sum(outs), right.answer.out) < SAME


def test_shares_of_the_shared_experts_add_up():
    one = case(tp_size=2, shared_experts=2)
    outs = [named("shared_unreduced").compute(scene(one, rank)) for rank in (0, 1)]
    right, shared = scene(one).answer.out, scene(one).answer.shared
    assert apart(sum(outs), 2 * right - shared) < SAME


def test_under_sequence_parallelism_a_share_of_the_shared_experts_is_too_little():
    """There the ranks' tokens differ, so nobody adds the shares up: each should have all."""
    one = case(tp_size=2, use_ep=True, sequence_parallel=True, shared_experts=2)
    right = scene(one, 1)
    out = named("shared_unreduced").compute(right)
    rest = named("shared_unreduced").compute(dataclasses.replace(right, rank=0))
    assert apart(out + rest, 2 * right.answer.out - right.answer.shared) < SAME


def test_a_tp_rank_s_share_is_missing_in_every_dp_rank():
    right = scene(case(dp_size=2, tp_size=2, shared_experts=1))
    sums = [named("all_reduce_missing").compute(dataclasses.replace(right, rank=r)) for r in (0, 1)]
    for missing, left in ((1, sums[0]), (0, sums[1])):
        here = seen(right, left)
        assert apart(named("tp_rank_missing").compute(here), left) < SAME
        assert blamed(here) == f"TP rank {missing}"


def test_the_rank_that_is_missing_is_found():
    right = scene(case(dp_size=4, use_ep=True))
    for rank in range(4):
        parts = right.answer.parts.clone()
        parts[rank] = 0
        wrong = right.total(parts=parts)
        here = seen(right, wrong)
        assert apart(named("rank_missing").compute(here), wrong) < 1e-5
        assert blamed(here) == f"rank {rank}"
        twice = 2 * right.answer.out - wrong
        assert apart(named("rank_twice").compute(seen(right, twice)), twice) < 1e-5


@pytest.mark.parametrize(
    ("name", "layout", "ranks"),
    [
        ("context_ranks_not_summed", {"pcp_size": 2, "use_ep": True}, (0, 1)),
        ("context_ranks_not_summed", {"dp_size": 2, "pcp_size": 2, "tp_size": 2}, (0, 2)),
        ("moe_tp_ranks_not_summed", {"dp_size": 4, "use_ep": True, "moe_tp_size": 2}, (0, 1)),
        ("moe_tp_ranks_not_summed", {"dp_size": 8, "use_ep": True, "moe_tp_size": 4}, range(4)),
    ],
)
def test_what_places_of_a_group_hold_alone_adds_up(name, layout, ranks):
    right = scene(case(**layout))
    outs = [named(name).compute(dataclasses.replace(right, rank=rank)) for rank in ranks]
    assert min(apart(out, right.answer.out) for out in outs) > 0.02
    assert apart(sum(outs), right.answer.out) < SAME


def test_split_experts_are_repeated_as_often_as_they_are_split():
    right = scene(case(dp_size=8, use_ep=True, moe_tp_size=4, shared_experts=1))
    out = named("split_experts_repeated").compute(right)
    assert apart(out - right.answer.shared, 4 * (right.answer.out - right.answer.shared)) < SAME


def test_parts_that_have_all_experts_add_the_routed_ones_again():
    right = scene(case(dp_size=6, use_ep=True, expert_dp_size=3, shared_experts=1))
    out = named("parts_summed").compute(right)
    assert apart(out - right.answer.shared, 3 * (right.answer.out - right.answer.shared)) < SAME
    parts = right.answer.parts.flatten(1).abs().sum(dim=1)
    assert (parts > 0).tolist() == [True, True, False, False, False, False]


NO_MISTAKE = [
    ("parts_summed", case(dp_size=4, use_ep=True), "hold every expert once"),
    ("context_ranks_not_summed", case(dp_size=2), "one context rank only"),
    ("moe_tp_ranks_not_summed", case(tp_size=2), "both spread and split"),
    (
        "moe_tp_ranks_not_summed",
        case(tp_size=4, use_ep=True, moe_tp_size=2),
        "the all-reduce over the TP ranks adds them up",
    ),
    ("split_experts_repeated", case(dp_size=2, use_ep=True), "both spread and split"),
    ("shared_once_per_rank", case(tp_size=2), "no shared experts"),
    ("shared_unreduced", case(shared_experts=1), "one TP rank only"),
    ("rank_missing", case(), "one rank only"),
    ("rank_twice", case(), "one rank only"),
    ("all_reduce_missing", case(dp_size=2), "one TP rank only"),
    ("tp_rank_missing", case(tp_size=2), "that is a rank's share"),
    (
        "all_reduce_twice",
        case(tp_size=2, use_ep=True, sequence_parallel=True),
        "no output is all-reduced",
    ),
    ("reduce_scatter_missing", case(tp_size=2), "no others' to gather"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)
