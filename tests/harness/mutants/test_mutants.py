"""Known mistakes give what a real stack with that mistake gives, and nothing where it is none."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.mutants import FEW, HYPOTHESES, NotApplicable, named
from harness.mutants.contributions import by_slot
from moe.placement import Placement
from tests.harness.mutants.samples import MANY_EXPERTS, UNEVEN, apart, case, scene, seen

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
        *(
            "shared_twice",
            "shared_gate_ignored",
            "zero_experts_missing",
            "latent_not_entered",
            "latent_not_left",
            "lora_missing",
            "lora_second_missing",
            "weights_ignored",
            "weights_twice",
        ),
        *("rank_missing", "rank_twice", "stale_replica_map"),
        *("scale_shifted", "gate_up_swapped", "limit_missing"),
        *("first_bias_missing", "second_bias_missing", "second_bias_on_each_rank"),
    ]


# Where the mistake is one; the plain case with shared experts for those that are not named.
PLACES = {
    "rows_off_by_block": case(m=20),
    "only_best_expert": case(top_k=3),
    "last_k_block_missing": case(k=384),
    "renormalisation_extra": case(renormalize=False),
    "reduce_scatter_missing": case(dp_size=2, use_ep=True),
    "neighbour_tokens": case(dp_size=2, use_ep=True),
    "other_half_inputs": case(m=8, call="two_batches"),
    "shard_of_joined_rows": case(tp_size=2),
    "second_scale_from_input": case(quant="fp8_tensor"),
    "input_scale_from_second": case(quant="fp8_tensor"),
    "scale_shifted_back": case(quant="int8_channel"),
    "w2_scale_shifted_back": case(quant="int8_channel"),
    "tp_rank_missing": case(dp_size=2, tp_size=2),
    "best_expert_twice": case(top_k=3),
    "ids_in_int8": MANY_EXPERTS,
    "remainder_on_last_rank": case(dp_size=2, use_ep=True, num_experts=5),
    "tp_tokens_summed": case(tp_size=2, use_ep=True, sequence_parallel=True),
    "w2_shard_of_next_rank": case(tp_size=2),
    "w2_shard_of_rank_before": case(tp_size=4),
    "second_scale_of_all_rows": case(quant="int8_channel"),
    "overflow_to_nan": case(quant="fp8_tensor", m=64, seed=3),
    "context_ranks_not_summed": case(dp_size=2, pcp_size=2, m=8),
    "moe_tp_ranks_not_summed": case(dp_size=4, use_ep=True, moe_tp_size=2),
    "shared_silu": case(shared_experts=1, activation="gelu_tanh"),
    "shared_not_quantized": case(shared_experts=1, shared_quant="int8_channel"),
    "split_experts_repeated": case(dp_size=4, use_ep=True, moe_tp_size=2),
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


PLACES |= dict.fromkeys(
    ("shared_gate_ignored", "shared_gate_twice", "shared_gate_not_squashed"),
    case(shared_experts=1, shared_gate=True),
)
ON_INPUT = case(top_k=1, router="sigmoid", renormalize=False, weights_input=True)
PLACES |= dict.fromkeys(("weights_on_output", "weights_on_both"), ON_INPUT)
PLACES |= dict.fromkeys(
    ("router_scale_missing", "router_scale_twice", "router_scale_on_shared"),
    case(router_scale=2.5, shared_experts=1),
)
PLACES["bias_in_weights"] = case(router="sigmoid", router_bias=True)
PLACES["renormalised_over_all"] = case(router="sigmoid")


ZERO = case(top_k=3, zero_experts=3, tp_size=2)
SQUARE = case(latent=256, shared_experts=1)
ADAPTERS = case(adapters=2, m=8, seed=2)  # the first token has one
PLACES |= {h.name: SQUARE for h in HYPOTHESES if h.family == "latent"}
PLACES |= {h.name: ADAPTERS for h in HYPOTHESES if h.family == "lora"}
PLACES |= {h.name: ZERO for h in HYPOTHESES if h.family == "zero_experts"}


PLACES["zero_experts_unscaled"] = ZERO.replace(router_scale=2.5)
PLACES["silu"] = case(activation="gelu_tanh")
PLACES |= dict.fromkeys(
    [h.name for h in HYPOTHESES if h.family == "biases"], case(expert_bias=True, tp_size=2)
)
PLACES |= dict.fromkeys(
    (
        *("limit_missing", "gate_limit_missing", "up_limit_missing"),
        *("beta_missing", "alpha_missing"),
    ),
    case(activation="swiglu_clamped"),
)


PLACES["parts_summed"] = case(dp_size=4, use_ep=True, expert_dp_size=2)
PLACES["weights_softmax"] = case(router="sigmoid")
PLACES |= {
    "nibbles_swapped": case(quant="mxfp4"),
    "words_in_awq_order": case(quant="int4_g32"),
    "words_out_of_awq_order": case(quant="int4_zp_g32"),
    "zero_points_ignored": case(quant="int8_zp_g32"),
    "zero_points_one_too_low": case(quant="int4_zp_g32"),
    "exponents_one_too_high": case(quant="mxfp8"),
    "exponents_one_too_low": case(quant="mxfp4_mxfp8"),
    "global_scales_missing": case(quant="nvfp4"),
    "w2_global_scale_from_w13": case(quant="nvfp4"),
}


EPLB = {"m": 8, "dp_size": 2, "use_ep": True, "eplb": "global", "redundant": 2}
PLACES |= {
    "replicas_disagree": case(**{**EPLB, "dp_size": 1, "tp_size": 2}),
    "scales_left_behind": case(**EPLB, quant="fp8_channel"),
    "biases_left_behind": case(**EPLB, expert_bias=True),
}


def moved(one):
    """The scene after a rebalance, in which ranks that disagree added an expert twice."""
    was, now = (
        Placement(num_experts=4, physical_to_logical=held, counts=(3, 3))
        for held in ((0, 1, 2, 3, 0, 1), (2, 1, 3, 0, 2, 1))
    )
    right = scene(one)
    twice = by_slot(right) * (1.0 + (right.topk_ids == 1))[:, :, None]
    actual = twice.sum(dim=1) if one.tp_size > 1 else right.actual
    return dataclasses.replace(right, placement=now, earlier=(was,), actual=actual, memo={})


def place(name: str):
    if named(name).family == "balancing":
        return moved(PLACES.get(name, case(**EPLB)))
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


# These depend on which rows there are.
BY_ROWS = (
    *("overflow_to_nan", "expert_from_neighbour", "expert_without_biases"),
    "lora_none_as_last",  # the first token has an adapter
)


@pytest.mark.parametrize("name", [h.name for h in HYPOTHESES if h.costly and h.name not in BY_ROWS])
def test_one_row_is_predicted_as_among_a_few(name):
    """So a mistake that does not fit the first row need not be computed for the others."""
    right = place(name)
    out = named(name).compute(right)
    first = right.answer.out.clone()
    first[: len(out)] = out
    wrong_first = seen(right, first)
    few = named(name).compute(wrong_first)
    one = named(name).compute(dataclasses.replace(wrong_first, few=1, memo={}))
    assert len(one) == 1
    assert apart(one, few[:1]) < 0.004  # a code at a tie


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
