"""What no member can serve: options of a layer that do not fit each other."""

import pytest

from moe.layer_needs import layer_refusal
from moe.layout import Layout
from moe.spec import LayerSpec, Scheme

BLOCKS = Scheme(weights="fp8_block", activations="fp8_group")
ONE_SCALE = Scheme(weights="fp8_tensor", activations="fp8_static")
CALIBRATED_GROUPS = Scheme(weights="nvfp4", activations="nvfp4_static")
WORDS = Scheme(weights="int4_zp_g32", activations="model")
EP_OF_2 = Layout(dp_size=2, use_ep=True)


def refusal(**fields):
    plain = {"m": 4, "hidden": 128, "intermediate": 256, "num_experts": 8, "top_k": 2}
    return layer_refusal(LayerSpec(**{**plain, **fields}))


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        (
            {"layout": Layout(dp_size=4, expert_dp_size=2)},
            "expert_dp_impossible",
            "without expert parallelism every rank has a part of all experts; set use_ep",
        ),
        (
            {"layout": Layout(dp_size=2, tp_size=4, use_ep=True, expert_dp_size=4)},
            "expert_dp_impossible",
            "a part has whole DP ranks, and 4 does not divide 2; choose a divisor",
        ),
        (
            {"layout": Layout(dp_size=4, use_ep=True, expert_dp_size=4)},
            "expert_dp_impossible",
            "this leaves one EP rank in each part; leave use_ep and expert_dp_size out",
        ),
        (
            {"layout": Layout(dp_size=4, use_ep=True, expert_dp_size=2, moe_tp_size=2)},
            "moe_tp_impossible",
            "of 2 ranks this leaves one EP rank; leave use_ep and moe_tp_size out",
        ),
        (
            {"layout": Layout(dp_size=4, moe_tp_size=2)},
            "moe_tp_impossible",
            "without expert parallelism every expert is split over all ranks; set use_ep",
        ),
        (
            {"layout": Layout(dp_size=3, use_ep=True, moe_tp_size=2)},
            "moe_tp_impossible",
            "groups of 2 do not divide 3 ranks; choose a divisor",
        ),
        (
            {"layout": Layout(tp_size=2, use_ep=True, moe_tp_size=2)},
            "moe_tp_impossible",
            "of 2 ranks this leaves one EP rank; leave use_ep and moe_tp_size out",
        ),
        (
            {"layout": Layout(dp_size=8, use_ep=True, moe_tp_size=4), "intermediate": 3},
            "empty_shard",
            "intermediate size 3 over 4 ranks leaves a rank empty",
        ),
        ({"top_k": 9}, "top_k_exceeds_experts", "top_k 9 is larger than the number of experts, 8"),
        ({"shared_gate": True}, "no_shared_experts", "no shared experts, but shared_gate"),
        ({"shared_width": 64}, "no_shared_experts", "but shared_width; leave it out"),
        ({"shared_fused": True}, "no_shared_experts", "or set shared_experts"),
        (
            {"shared_experts": 1, "shared_fused": True, "shared_width": 64},
            "fused_shared_unsupported",
            "as the routed ones, without shared_width; leave shared_fused out",
        ),
        (
            {"shared_experts": 1, "shared_fused": True, "zero_experts": 2},
            "fused_shared_unsupported",
            "without zero_experts",
        ),
        (
            {"zero_experts": 2, "top_k": 1, "weights_input": True},
            "zero_experts_unsupported",
            "weighted once; leave weights_input out",
        ),
        (
            {"shared_experts": 1, "shared_width": 3, "layout": Layout(tp_size=4)},
            "empty_shard",
            "3 columns of shared experts over 4 ranks leave a rank empty",
        ),
        (
            {"shared_experts": 1, "shared_scheme": ONE_SCALE},
            "shared_experts_unsupported",
            "dynamic scales of tokens or groups, not fp8_static; choose another shared_quant",
        ),
        (
            {"shared_experts": 1, "shared_scheme": CALIBRATED_GROUPS},
            "shared_experts_unsupported",
            "not nvfp4_static",
        ),
        (
            {"shared_experts": 1, "shared_scheme": WORDS, "hidden": 100},
            "group_does_not_divide",
            "the hidden size 100 is not a multiple of a group, 32; choose another size or shared_",
        ),
        (
            {"shared_experts": 1, "shared_scheme": BLOCKS, "layout": Layout(tp_size=4)},
            "block_straddles_shard",
            "columns end at 64, inside a block of 128",
        ),
        (
            {"shared_experts": 1, "shared_width": 100, "shared_scheme": BLOCKS},
            "block_straddles_shard",
            "columns end at 100, inside",
        ),
        (
            {"chunk": 3, "scheme": Scheme(weights="fp8_tensor", activations="fp8_dynamic")},
            "scale_spans_chunks",
            "fp8_dynamic activations have a scale over all tokens of a call",
        ),
        ({"redundant": 2}, "redundant_needs_eplb", "name a policy, or leave it out"),
        ({"eplb": "global"}, "eplb_needs_ep", "over EP ranks, and there is one"),
        (
            {"eplb": "global", "redundant": 1, "layout": EP_OF_2},
            "eplb_slots_uneven",
            "9 slots, which 2 ranks do not divide; choose another redundant",
        ),
        (
            {"eplb": "global", "redundant": 8, "layout": EP_OF_2},
            "eplb_nothing_to_move",
            "each of 2 ranks has 8 slots for 8 experts",
        ),
        (
            {"eplb": "hierarchical", "layout": EP_OF_2},
            "eplb_groups_uneven",
            "8 experts in 1 router groups on 2 nodes",
        ),
        (
            {
                "eplb": "global",
                "redundant": 2,
                "layout": Layout(dp_size=4, use_ep=True, expert_dp_size=2),
                "adapters": 1,
            },
            "eplb_unsupported",
            "without adapters, expert_dp",
        ),
    ],
)
def test_each_misfit_has_a_code_and_a_remedy(fields, code, text):
    reason = refusal(**fields)
    assert reason.code == code
    assert text in reason.text


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"top_k": 9, "zero_experts": 1},
        {"chunk": 3},
        {"shared_experts": 1, "shared_fused": True, "shared_gate": True},
        {"shared_experts": 2, "shared_scheme": BLOCKS, "layout": Layout(tp_size=2)},
        {
            "shared_experts": 1,
            "shared_width": 128,
            "shared_scheme": BLOCKS,
            "layout": Layout(tp_size=2, use_ep=True, sequence_parallel=True),
        },
    ],
)
def test_what_fits_is_not_refused(fields):
    assert refusal(**fields) is None
