"""Rows, inputs or weights of other tokens are those of the rank or call that has them."""

from __future__ import annotations

import pytest
import torch

from harness.mutants import FEW, NotApplicable, named
from tests.harness.mutants.real_layer import SAME
from tests.harness.mutants.samples import (
    UNEVEN,
    apart,
    assert_no_mistake,
    case,
    scene,
)


def test_a_neighbours_tokens_are_the_neighbours_answer():
    one = case(dp_size=2, use_ep=True, shared_experts=1)
    mine, other = scene(one, 0), scene(one, 1)
    out = named("neighbour_tokens").compute(mine)
    assert apart(out, other.answer.out[:FEW]) < SAME


def test_a_neighbour_of_uneven_counts_is_compared_as_far_as_it_goes():
    one = case(dp_size=2, use_ep=True, tokens="ragged", m=3)
    assert one.counts == (3, 2)
    out = named("neighbour_tokens").compute(scene(one, 0))
    assert apart(out, scene(one, 1).answer.out) < SAME


def test_a_sequence_parallel_neighbour_holds_the_next_slice():
    one = case(tp_size=2, use_ep=True, sequence_parallel=True)
    out = named("neighbour_tokens").compute(scene(one, 0))
    assert apart(out, scene(one, 1).answer.out[:FEW]) < SAME


def test_inputs_of_the_first_rank_meet_the_routing_of_another():
    one = case(dp_size=2, use_ep=True, shared_experts=1)
    first, here = scene(one, 0), scene(one, 1)
    wrong = here.reference(first.x, here.topk_ids, here.topk_weights)
    wanted = (wrong.out - wrong.shared + here.answer.shared)[:FEW]
    assert apart(named("first_rank_inputs").compute(here), wanted) < SAME
    assert apart(named("reversed_rank_inputs").compute(here), wanted) < SAME
    with pytest.raises(NotApplicable, match="the first rank's tokens"):
        named("first_rank_inputs").compute(first)


@pytest.mark.parametrize("layout", [{"dp_size": 4}, {"dp_size": 2, "tp_size": 2}])
def test_in_reverse_order_the_first_rank_gets_the_last_one_s_tokens(layout):
    one = case(**layout)
    here, last = scene(one, 0), scene(one, 3)
    wanted = here.reference(last.x, here.topk_ids, here.topk_weights).out[:FEW]
    assert apart(named("reversed_rank_inputs").compute(here), wanted) < SAME


def test_the_first_half_of_a_call_is_given_the_tokens_of_the_second():
    here = scene(case(m=8, call="two_batches"))
    x = torch.cat([here.x[4:], here.x[4:]])
    wanted = here.reference(x, here.topk_ids, here.topk_weights).out
    assert apart(named("other_half_inputs").compute(here), wanted[:FEW]) < SAME


def test_weights_of_the_first_rank_meet_the_experts_of_another():
    one = case(dp_size=2, use_ep=True)
    first, here = scene(one, 0), scene(one, 1)
    wanted = here.reference(here.x, here.topk_ids, first.topk_weights).out
    assert apart(named("first_rank_weights").compute(here), wanted) < SAME


def test_tp_ranks_with_tokens_of_their_own_are_added_up():
    one = case(tp_size=2, use_ep=True, sequence_parallel=True, shared_experts=1)
    mine, other = scene(one, 0), scene(one, 1)
    wanted = mine.answer.out + other.answer.out - other.answer.shared
    assert apart(named("tp_tokens_summed").compute(mine), wanted[:FEW]) < SAME


def test_the_call_before_is_added_to():
    out = named("stale_sum").compute(scene(case(), number=1))
    assert apart(out, (scene(case(), number=1).answer.out + scene(case()).answer.out)[:FEW]) < SAME


@pytest.mark.parametrize("rank", [2, 3])
def test_rows_are_looked_for_without_the_padding(rank):
    rows = max(UNEVEN.counts)
    padded = torch.zeros(4 * rows, UNEVEN.k)
    for r, count in enumerate(UNEVEN.counts):
        padded[r * rows : r * rows + count] = scene(UNEVEN, r).answer.out
    start = sum(UNEVEN.counts[:rank])
    assert start != rank * rows
    wanted = padded[start : start + UNEVEN.counts[rank]][:FEW]
    off = named("unpadded_offsets").compute(scene(UNEVEN, rank)) - wanted
    assert float(off.norm()) < SAME * float(padded.norm())  # where it finds padding: zeros


def test_a_stale_output_is_the_first_calls():
    out = named("stale_output").compute(scene(case(), number=1))
    assert apart(out, scene(case()).answer.out[:FEW]) < SAME


NO_MISTAKE = [
    ("neighbour_tokens", case(tp_size=2), "no other rank holds other tokens"),
    ("neighbour_tokens", case(dp_size=2, use_ep=True, tokens="idle"), "no other tokens"),
    ("stale_output", case(), "the first call"),
    ("stale_sum", case(), "the first call"),
    ("tp_tokens_summed", case(tp_size=2), "TP ranks hold the same tokens"),
    ("first_rank_inputs", case(dp_size=2), "the first rank's tokens"),
    ("other_half_inputs", case(m=8), "the tokens go through the layer at once"),
    ("first_rank_weights", case(dp_size=2), "the first rank's tokens"),
    ("reversed_rank_inputs", case(tp_size=2), "this rank has its own place"),
    ("unpadded_offsets", case(dp_size=2), "no rank before this one sends padding"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)
