"""Known mistakes give what a real stack with that mistake gives, and nothing where it is none."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from harness.fixtures.layer_under_test import make_subject
from harness.mutants import FEW, HYPOTHESES, NotApplicable, named
from harness.mutants.contributions import blamed
from harness.mutants.recompute import Steps, redo, redo_parts
from moe.formats import FORMATS
from moe.quant import QUANT
from moe.quant.base import QuantMethod
from moe.routers import ROUTERS
from moe.types import Activations, Routing
from tests.harness.mutants.samples import ALONE, apart, case, scene, seen

SAME = 1e-3  # sums in another order, and now and then a code at a tie
LAYOUTS = (
    {},
    {"tp_size": 2},
    {"dp_size": 2},
    {"dp_size": 2, "use_ep": True},
    {"tp_size": 2, "use_ep": True},
    {"dp_size": 2, "tp_size": 2},
    {"dp_size": 2, "tp_size": 2, "use_ep": True, "sequence_parallel": True},
)

# --- the table


def test_names_are_unique_and_at_least_forty():
    names = [h.name for h in HYPOTHESES]
    assert len(set(names)) == len(names) >= 40
    assert named("zeros").battery
    with pytest.raises(KeyError):
        named("zeroes")


def test_the_battery_holds_what_was_promised():
    assert [h.name for h in HYPOTHESES if h.battery] == [
        *("zeros", "halved", "doubled", "negated", "rolled", "swapped", "row_zeroed"),
        *("last_block_zeroed", "expert_dropped", "expert_from_neighbour", "shared_missing"),
        *("shared_twice", "weights_ignored", "weights_twice", "rank_missing", "rank_twice"),
        *("scale_shifted", "gate_up_swapped"),
    ]


UNEVEN = case(m=6, dp_size=4, use_ep=True, tokens="ragged")

# Where the mistake is one; the plain case with shared experts for those that are not named.
PLACES = {
    "rows_off_by_block": case(m=20),
    "only_best_expert": case(top_k=3),
    "last_k_block_missing": case(k=384),
    "renormalisation_extra": case(renormalize=False),
    "reduce_scatter_missing": case(dp_size=2, use_ep=True),
    "neighbour_tokens": case(dp_size=2, use_ep=True),
    "shard_of_joined_rows": case(tp_size=2),
    "second_scale_from_input": case(quant="fp8_tensor"),
    "input_scale_from_second": case(quant="fp8_tensor"),
    "scale_shifted_back": case(quant="int8_channel"),
    "w2_scale_shifted_back": case(quant="int8_channel"),
    "tp_rank_missing": case(dp_size=2, tp_size=2),
    "best_expert_twice": case(top_k=3),
    "ids_in_int8": case(num_experts=160, n=64, k=128),
    "remainder_on_last_rank": case(dp_size=2, use_ep=True, num_experts=5),
    "tp_tokens_summed": case(tp_size=2, use_ep=True, sequence_parallel=True),
    "w2_shard_of_next_rank": case(tp_size=2),
    "w2_shard_of_rank_before": case(tp_size=4),
    "second_scale_of_all_rows": case(quant="int8_channel"),
    "overflow_to_nan": case(quant="fp8_tensor", m=64, seed=3),
}
PLACES |= dict.fromkeys(
    (
        *("rank_missing", "rank_twice", "all_reduce_missing", "all_reduce_twice"),
        *("all_reduce_averaged", "shared_once_per_rank", "shared_unreduced"),
    ),
    case(tp_size=2, shared_experts=1),
)
PLACES |= dict.fromkeys(
    (
        *("global_ids_as_local", "offset_taken_twice", "stale_expert_map"),
        *("absent_as_first", "absent_as_last"),
    ),
    case(dp_size=2, use_ep=True),
)
PLACES["silu"] = case(activation="gelu_tanh")
PLACES["weights_softmax"] = case(router="sigmoid")


def place(name: str):
    if name in ("stale_output", "stale_sum"):
        return scene(case(), number=1)
    if name.startswith(("first_rank", "reversed_rank")):
        return scene(case(dp_size=2, use_ep=True), rank=1)
    if name == "unpadded_offsets":
        return scene(UNEVEN, rank=3)
    coded = named(name).family in ("scales", "scale_scopes", "rounding")
    plain = case(quant="fp8_block") if coded else case(shared_experts=1)
    return scene(PLACES.get(name, plain))


@pytest.mark.parametrize("name", [h.name for h in HYPOTHESES if h.name != "overflow_to_nan"])
def test_each_mistake_changes_the_output(name):
    here = place(name)
    out = named(name).compute(here)
    most = FEW if named(name).costly else len(here.rows)
    assert out.dtype is torch.float32
    assert out.shape == (min(most, len(here.rows)), here.case.k)
    assert apart(out, here.answer.out[: len(out)]) > 1e-3


def test_the_table_is_not_changed_by_asking():
    here = place("gate_up_swapped")
    before = here.answer.out.clone(), here.answer.parts.clone(), here.topk_weights.clone()
    for h in HYPOTHESES:
        try:
            h.compute(here)
        except NotApplicable:
            continue
    after = here.answer.out, here.answer.parts, here.topk_weights
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# --- the few rows that are worked out again are the reference's when no step is changed


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quant", QUANT.rows)
def test_redone_rightly_is_the_right_answer(quant, layout):
    for experts in ("torch_loop", "triton"):  # they declare other numerics
        small = {"m": 3, "k": 128, "num_experts": 2, "top_k": 2}
        here = scene(case(quant=quant, experts=experts, shared_experts=1, **small, **layout))
        few = here.first(FEW)
        assert apart(redo_parts(few), few.answer.parts) < SAME
        assert apart(redo(here), few.answer.out) < SAME


# --- against the real stack with the mistake made in it


def real(one, change_weights=None, change_routing=None):
    """The rows of the real layer on one rank, with its weights or its routing changed."""
    subject, here = make_subject(one, dataclasses.replace(ALONE, caches={})), scene(one)
    kernel = subject.layer.kernel
    if change_weights is not None:
        kernel.experts.weights = change_weights(kernel.experts.weights)
    ids, weights = here.topk_ids, here.topk_weights
    if change_routing is not None:
        ids, weights = change_routing(ids, weights)
    with torch.inference_mode():
        routed = kernel.apply(here.x, Routing(topk_ids=ids, topk_weights=weights))
    assert not subject.layer.shared
    return routed.float(), here


def scaled(which, change):
    def weights(w):
        return w.replace(**{which: change(getattr(w, which))})

    return weights


def swap_halves(w):
    def swapped(t):
        raw = t.view(torch.uint8) if t.element_size() == 1 else t
        return torch.cat(raw.chunk(2, dim=1)[::-1], dim=1).view(t.dtype)

    scale = w.w13_scale
    one_for_both = scale is None or scale.ndim == 1
    return w.replace(w13=swapped(w.w13), w13_scale=scale if one_for_both else swapped(scale))


def up_like_gate(scale):
    gate, _ = scale.chunk(2, dim=1)
    return torch.cat([gate, gate], dim=1)


def gate_like_up(scale):
    _, up = scale.chunk(2, dim=1)
    return torch.cat([up, up], dim=1)


def first_of(scale):
    return scale[:1].expand_as(scale).contiguous()


def transposed(scale):
    return scale.transpose(1, 2).reshape(scale.shape)


def tiles_transposed(w2):
    e, down, across = w2.shape[0], w2.shape[1] // 128, w2.shape[2] // 128
    tiles = w2.reshape(e, down, 128, across, 128).transpose(2, 4)
    return tiles.reshape(w2.shape)


def halves(w):
    return w.replace(w13_scale=w.w13_scale / 2, w2_scale=w.w2_scale / 2)


REAL = [
    ("scale_shifted", "fp8_block", scaled("w13_scale", lambda s: s.roll(1, dims=2))),
    ("scale_shifted", "int8_channel", scaled("w13_scale", lambda s: s.roll(1, dims=1))),
    ("scale_shifted", "fp8_tensor", scaled("w13_scale", lambda s: s.roll(-1, dims=0))),
    ("w2_scale_shifted", "fp8_block", scaled("w2_scale", lambda s: s.roll(1, dims=2))),
    ("w2_scale_shifted", "int8_channel", scaled("w2_scale", lambda s: s.roll(1, dims=1))),
    ("w2_scale_shifted", "fp8_tensor", scaled("w2_scale", lambda s: s.roll(-1, dims=0))),
    ("scale_shifted_back", "int8_channel", scaled("w13_scale", lambda s: s.roll(-1, dims=1))),
    ("scale_shifted_back", "fp8_tensor", scaled("w13_scale", lambda s: s.roll(1, dims=0))),
    ("w2_scale_shifted_back", "int8_channel", scaled("w2_scale", lambda s: s.roll(-1, dims=1))),
    ("w2_scale_shifted_back", "fp8_tensor", scaled("w2_scale", lambda s: s.roll(1, dims=0))),
    ("w13_scale_transposed", "fp8_block", scaled("w13_scale", transposed)),
    ("w2_scale_transposed", "fp8_block", scaled("w2_scale", transposed)),
    ("w13_scale_twice", "int8_channel", scaled("w13_scale", torch.square)),
    ("w13_scale_missing", "int8_channel", scaled("w13_scale", torch.ones_like)),
    ("w2_scale_twice", "fp8_block", scaled("w2_scale", torch.square)),
    ("w2_scale_missing", "fp8_block", scaled("w2_scale", torch.ones_like)),
    ("up_scale_from_gate", "fp8_block", scaled("w13_scale", up_like_gate)),
    ("up_scale_from_gate", "int8_channel", scaled("w13_scale", up_like_gate)),
    ("gate_scale_from_up", "int8_channel", scaled("w13_scale", gate_like_up)),
    ("second_scale_from_input", "fp8_tensor", lambda w: w.replace(a2_scale=w.a1_scale)),
    ("gate_up_swapped", "none", swap_halves),
    ("gate_up_swapped", "fp8_block", swap_halves),
    ("gate_up_swapped", "fp8_tensor", swap_halves),
    ("w13_scale_of_first_expert", "fp8_block", scaled("w13_scale", first_of)),
    ("w2_scale_of_first_expert", "fp8_tensor", scaled("w2_scale", first_of)),
    ("w13_scale_of_next_expert", "fp8_block", scaled("w13_scale", lambda s: s.roll(-1, dims=0))),
    ("w2_scale_of_next_expert", "int8_channel", scaled("w2_scale", lambda s: s.roll(-1, dims=0))),
    ("w13_scale_of_expert_before", "int8_channel", scaled("w13_scale", lambda s: s.roll(1, 0))),
    ("w2_scale_of_expert_before", "fp8_block", scaled("w2_scale", lambda s: s.roll(1, dims=0))),
    ("w13_of_expert_before", "none", scaled("w13", lambda w: w.roll(1, 0))),
    ("w13_of_next_expert", "none", scaled("w13", lambda w: w.roll(-1, 0))),
    ("w2_of_expert_before", "none", scaled("w2", lambda w: w.roll(1, 0))),
    ("w2_of_next_expert", "none", scaled("w2", lambda w: w.roll(-1, 0))),
    ("w2_blocks_transposed", "none", lambda w: w.replace(w2=tiles_transposed(w.w2))),
    ("fnuz_codes", "fp8_block", halves),
]


@pytest.mark.parametrize(("name", "quant", "change"), REAL)
def test_a_mistake_in_the_weights_is_foretold(name, quant, change):
    out, here = real(case(quant=quant), change_weights=change)
    foretold = named(name).compute(here)
    assert apart(out[: len(foretold)], foretold) < 0.004  # one rounding to bf16, a code at a tie
    assert apart(out, here.answer.out) > 0.02


def test_a_whole_matrix_of_one_block_is_transposed_too():
    one = case(n=128, k=128)
    out, here = real(one, change_weights=lambda w: w.replace(w2=w.w2.mT.contiguous()))
    assert apart(out[:FEW], named("w2_blocks_transposed").compute(here)) < 0.004


def test_block_scales_are_off_by_one_in_either_direction():
    one = case(quant="fp8_block", k=384)
    out, here = real(one, change_weights=scaled("w13_scale", lambda s: s.roll(-1, dims=2)))
    assert apart(out[:FEW], named("scale_shifted_back").compute(here)) < 0.004


ROUTED = [
    ("ids_off_by_one", lambda i, w: ((i + 1) % 4, w)),
    ("ids_one_too_low", lambda i, w: ((i - 1) % 4, w)),
    ("weights_ignored", lambda i, w: (i, torch.ones_like(w))),
    ("weights_twice", lambda i, w: (i, w * w)),
    ("weights_uniform", lambda i, w: (i, torch.full_like(w, 0.5))),
    ("weights_reversed", lambda i, w: (i, w.flip(1))),
    ("last_slot_dropped", lambda i, w: (torch.where(torch.tensor([True, False]), i, -1), w)),
    ("slots_overwritten", lambda i, w: (i[:, :1].expand(i.shape).contiguous(), w)),
]


@pytest.mark.parametrize(("name", "change"), ROUTED)
def test_a_mistake_in_the_routing_is_foretold(name, change):
    out, here = real(case(), change_routing=change)
    foretold = named(name).compute(here)
    assert apart(out[: len(foretold)], foretold) < 0.004
    assert apart(out, here.answer.out) > 0.02


@pytest.mark.parametrize(
    ("name", "one", "change"),
    [
        ("best_expert_twice", case(top_k=3), lambda i: i[:, [0, 0, 1]].contiguous()),
        ("ids_in_int8", PLACES["ids_in_int8"], lambda i: i.to(torch.int8).int()),
    ],
)
def test_a_mistake_in_the_ids_is_foretold(name, one, change):
    out, here = real(one, change_routing=lambda i, w: (change(i), w))
    foretold = named(name).compute(here)
    assert apart(out[: len(foretold)], foretold) < 0.004
    assert apart(out, here.answer.out) > 0.02


def test_one_scale_for_the_intermediate_of_all_rows_is_foretold(monkeypatch):
    def together(_, h, __):
        scale = h.float().abs().amax() / 127
        codes = (h.float() / scale).round().to(torch.int8)
        scales = scale.expand(len(h), 1).contiguous()
        return Activations(codes=codes, scale=scales, format=FORMATS["int8_token"])

    right, here = real(case(quant="int8_channel"))
    monkeypatch.setattr(QuantMethod, "quantize_intermediate", together)
    out, here = real(case(quant="int8_channel"))
    foretold = named("second_scale_of_all_rows").compute(here)
    assert apart(out[:FEW], foretold) < 0.004 < apart(out, right)


@pytest.mark.parametrize(
    ("name", "one", "step"),
    [
        ("w2_shard_of_next_rank", case(tp_size=2), 1),
        ("w2_shard_of_next_rank", case(dp_size=2, tp_size=2), 1),
        ("w2_shard_of_rank_before", case(tp_size=4), -1),
    ],
)
def test_each_rank_s_columns_meet_another_rank_s(name, one, step):
    here = scene(one)
    width = one.n // one.world_size

    def moved(w2):
        return torch.cat([w2[:, step * width :], w2[:, : step * width]], dim=1)

    wanted = redo(here, Steps(w2=lambda _, e: moved(e.w2)))
    assert apart(named(name).compute(here), wanted) < SAME
    out, _ = real(case(), change_weights=lambda w: w.replace(w2=torch.stack([*map(moved, w.w2)])))
    assert one.layout != case().layout
    assert apart(named(name).compute(here), out[:FEW]) < 0.004


# --- sums over ranks


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


def test_shared_experts_see_what_the_routed_ones_gave():
    here = scene(case(shared_experts=1))
    routed = here.answer.out - here.answer.shared
    wrong = here.reference(routed.bfloat16(), here.topk_ids, here.topk_weights)
    assert apart(named("shared_from_output").compute(here), routed + wrong.shared) < SAME


def test_the_map_gives_the_odd_expert_to_the_last_rank():
    """Ranks hold experts 0-2 and 3-4; by the map the second one's begin with number 2."""
    here = scene(case(dp_size=2, use_ep=True, num_experts=5))
    few = here.first(FEW)
    first = torch.where(few.topk_ids < 3, few.topk_ids, -1)
    second = torch.where((few.topk_ids >= 2) & (few.topk_ids < 4), few.topk_ids + 1, -1)
    wanted = redo(few, ids=first) + redo(few, ids=second)
    assert apart(named("remainder_on_last_rank").compute(here), wanted) < SAME


def test_a_stale_output_is_the_first_calls():
    out = named("stale_output").compute(scene(case(), number=1))
    assert apart(out, scene(case()).answer.out[:FEW]) < SAME


def test_rows_come_from_all_tokens_not_only_the_chosen():
    here = scene(case(m=40))
    assert len(here.rows) == 16
    out = named("rolled").compute(here)
    assert torch.equal(out[3], here.all_rows[int(here.rows[3]) - 1])


# --- of many, the culprit


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


def test_the_rows_that_were_swapped_or_zeroed_are_found():
    right = scene(case(m=12))
    wrong = right.answer.out.clone()
    wrong[[3, 9]] = wrong[[9, 3]]
    assert torch.equal(named("swapped").compute(seen(right, wrong)), wrong)
    wrong = right.answer.out.clone()
    wrong[7] = 0
    assert torch.equal(named("row_zeroed").compute(seen(right, wrong)), wrong)


def test_the_expert_that_took_its_neighbours_weights_is_found():
    right = scene(case(m=16))
    here = set(right.topk_ids[:FEW].flatten().tolist())
    assert len(here) > 2
    for e in here:
        ids = torch.where(right.topk_ids == e, (e + 1) % 4, right.topk_ids)
        wrong = right.total(parts=redo_parts(right, ids=ids))
        out = named("expert_from_neighbour").compute(seen(right, wrong))
        assert apart(out, wrong[: len(out)]) < SAME, e


def test_nan_in_what_was_seen_stops_no_question():
    right = scene(case(dp_size=2, use_ep=True, shared_experts=1))
    broken = seen(right, torch.full_like(right.answer.out, torch.nan))
    for name in ("expert_dropped", "rank_missing", "swapped", "expert_from_neighbour"):
        assert named(name).compute(broken).isfinite().all()


def test_codes_beyond_the_range_become_nan_and_say_so():
    here = scene(case(quant="fp8_tensor_dynamic"))
    tiny = here.answer.tensor_scales[0] / 8
    scales = (tiny, here.answer.tensor_scales[1])
    answer = dataclasses.replace(here.answer, tensor_scales=scales)
    out = named("overflow_to_nan").compute(dataclasses.replace(here, answer=answer, memo={}))
    assert out.isnan().any()
    with pytest.raises(NotApplicable, match="beyond the range"):
        named("overflow_to_nan").compute(here)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("weights_twice", {"top_k": 1, "renormalize": False}),
        ("weights_ignored", {"top_k": 1, "renormalize": False}),
        ("renormalisation_missing", {}),
        ("renormalisation_extra", {"renormalize": False}),
    ],
)
def test_a_router_that_always_renormalises_makes_some_mistakes_none(monkeypatch, name, fields):
    here = scene(case(**fields))
    named(name).compute(here)
    row = dataclasses.replace(ROUTERS.row("softmax"), always_renormalizes=True)
    monkeypatch.setattr(ROUTERS, "_rows", ROUTERS.rows | {"softmax": row})
    with pytest.raises(NotApplicable, match="renormalis"):
        named(name).compute(here)


# --- no mistake here

NONE_HERE = [
    ("rolled", case(m=1), "rolling 1 row"),
    ("rolled", case(tp_size=2, use_ep=True, sequence_parallel=True, m=2), "rolling 1 row"),
    ("swapped", case(m=1), "one token only"),
    ("rows_off_by_block", case(m=16), "rolling 16 row"),
    ("columns_rolled", case(k=128), "one block of 128"),
    ("columns_reversed_blocks", case(k=128), "one block of 128"),
    ("odd_columns_swapped", case(k=1), "one hidden column"),
    ("weights_ignored", case(top_k=1), "a renormalised weight is one"),
    ("weights_twice", case(top_k=1), "a renormalised weight is one"),
    ("weights_uniform", case(top_k=1), "a renormalised weight is one"),
    ("weights_sigmoid", case(top_k=1), "a renormalised weight is one"),
    ("weights_on_input", case(top_k=1), "a renormalised weight is one"),
    ("weights_ignored", case(top_k=1, renormalize=False, exact=True), "an exact case's weight"),
    ("weights_sigmoid", case(router="sigmoid"), "sigmoid is the layer's scoring function"),
    ("weights_softmax", case(), "softmax is the layer's scoring function"),
    ("weights_reversed", case(top_k=1), "top-k is 1"),
    ("last_slot_dropped", case(top_k=1), "top-k is 1"),
    ("slots_overwritten", case(top_k=1), "top-k is 1"),
    ("only_best_expert", case(top_k=2), "a dropped last slot"),
    ("renormalisation_missing", case(renormalize=False), "does not renormalise"),
    ("renormalisation_missing", case(top_k=4), "all experts are chosen"),
    ("renormalisation_extra", case(), "does renormalise"),
    ("renormalisation_extra", case(top_k=4, renormalize=False), "all experts are chosen"),
    ("silu", case(), "silu is the layer's own activation"),
    ("gelu_tanh", case(activation="gelu_tanh"), "gelu_tanh is the layer's own activation"),
    ("shared_missing", case(), "no shared experts"),
    ("shared_twice", case(), "no shared experts"),
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
    ("neighbour_tokens", case(tp_size=2), "no other rank holds other tokens"),
    ("neighbour_tokens", case(dp_size=2, use_ep=True, tokens="idle"), "no other tokens"),
    ("stale_output", case(), "the first call"),
    ("stale_sum", case(), "the first call"),
    ("tp_tokens_summed", case(tp_size=2), "TP ranks hold the same tokens"),
    ("first_rank_inputs", case(dp_size=2), "the first rank's tokens"),
    ("first_rank_weights", case(dp_size=2), "the first rank's tokens"),
    ("reversed_rank_inputs", case(tp_size=2), "this rank has its own place"),
    ("unpadded_offsets", case(dp_size=2), "no rank before this one sends padding"),
    ("best_expert_twice", case(), "below top-k 3"),
    ("ids_in_int8", case(), "no rank has more than 128 experts"),
    ("shared_from_output", case(), "no shared experts"),
    ("remainder_on_last_rank", case(dp_size=2, use_ep=True), "divide the experts evenly"),
    ("w2_of_expert_before", case(num_experts=2), "either way"),
    ("w13_of_next_expert", case(dp_size=4, use_ep=True), "no rank has more than one expert"),
    ("w2_shard_of_next_rank", case(tp_size=2, use_ep=True), "every rank has whole experts"),
    ("w2_shard_of_next_rank", case(tp_size=2, n=255), "of different sizes"),
    ("w2_shard_of_rank_before", case(tp_size=2), "either way"),
    ("w13_scale_of_first_expert", case(), "nothing is quantized"),
    (
        "w2_scale_of_first_expert",
        case(quant="fp8_block", dp_size=4, use_ep=True),
        "no rank has more than one expert",
    ),
    ("w2_scale_of_next_expert", case(quant="fp8_tensor"), "scales off by one expert"),
    ("second_scale_of_all_rows", case(), "nothing is quantized"),
    ("second_scale_of_all_rows", case(quant="fp8_tensor"), "one scale for all rows is right"),
    ("global_ids_as_local", case(tp_size=2), "every rank has all experts"),
    ("stale_expert_map", case(use_ep=True), "every rank has all experts"),
    ("expert_from_neighbour", case(num_experts=1, top_k=1), "one expert only"),
    ("weights_ignored", case(num_experts=1, top_k=1, renormalize=False), "only expert's weight"),
    ("ids_off_by_one", case(num_experts=1, top_k=1), "one expert only"),
    ("scale_shifted", case(), "nothing is quantized"),
    ("scale_shifted", case(quant="fp8_tensor", num_experts=1, top_k=1), "one scale, only"),
    ("w2_scale_shifted", case(quant="fp8_block", n=128, k=128), "the matrix is one block"),
    ("scale_shifted_back", case(quant="fp8_block"), "either way"),
    ("scale_shifted_back", case(quant="fp8_tensor", num_experts=2), "either way"),
    ("w13_scale_transposed", case(quant="fp8_block", k=128), "a single row or column"),
    ("w13_scale_transposed", case(quant="fp8_tensor"), "no matrix of blocks"),
    ("up_scale_from_gate", case(quant="fp8_tensor"), "gate and up share one scale"),
    ("second_scale_from_input", case(quant="fp8_block"), "no scale is static"),
    ("input_groups_shifted", case(quant="int8_channel"), "not by groups"),
    ("input_groups_shifted", case(quant="fp8_block", k=128), "a row is one group"),
    ("weights_unquantized", case(), "nothing is quantized"),
    ("fnuz_codes", case(quant="int8_channel"), "nothing is quantized to fp8"),
    ("bf16_accumulation", case(dtype="f32"), "the model dtype is float32"),
    ("shard_of_joined_rows", case(tp_size=2, use_ep=True), "whole experts"),
    ("gate_up_interleaved", case(n=1), "interleaved as they are"),
    ("odd_k_blocks_missing", case(k=128), "one block of 128"),
    ("last_k_block_missing", case(k=256), "every second one"),
    ("last_n_block_missing", case(n=128), "no more than 128 intermediate columns"),
    ("last_n_block_missing", case(n=256, tp_size=2), "no more than 128 intermediate columns"),
    ("w2_blocks_transposed", case(n=64), "no whole block"),
]


@pytest.mark.parametrize(("name", "one", "text"), NONE_HERE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, one, text):
    with pytest.raises(NotApplicable, match=re.escape(text)):
        named(name).compute(scene(one))


def test_a_limit_that_nothing_reaches_clamps_nothing():
    right = scene(case(k=128, n=128))
    small = dataclasses.replace(right, x=right.x / 64, memo={})
    with pytest.raises(NotApplicable, match="nothing in these rows is beyond 7"):
        named("gate_clamped").compute(small)


def test_ranks_and_experts_that_add_nothing_are_no_culprits():
    right = scene(case(dp_size=4, use_ep=True, m=1))
    idle = ((right.answer.parts != 0).flatten(1).sum(dim=1) == 0).sum()
    assert idle >= 2  # one token goes to two experts
    assert apart(named("rank_missing").compute(right), right.answer.out) > 0.005
    none = dataclasses.replace(right.answer, parts=torch.zeros_like(right.answer.parts))
    nothing = dataclasses.replace(right, answer=none, memo={})
    with pytest.raises(NotApplicable, match="no rank adds anything"):
        named("rank_missing").compute(nothing)
    with pytest.raises(NotApplicable, match="no expert adds anything"):
        named("expert_dropped").compute(nothing)
