"""Needs of rows are judged by features, blocks, memory and time; each has a code."""

import dataclasses

import pytest

from harness.plan.machine import planned_for
from harness.plan.plan import make_plan
from moe.activations import ACTIVATIONS
from moe.formats import FORMATS
from moe.quant import QUANT, QuantSpec
from moe.spec import Scheme
from tests.harness.plan.points import CPU, HOPPERS, case, refusal


def test_exact_mode_refuses_an_activation_that_is_never_the_identity(monkeypatch):
    point = case(exact=True)
    assert make_plan([point], CPU).cases == (point,)
    row = dataclasses.replace(ACTIVATIONS.row("silu"), identity_from=None)
    monkeypatch.setattr(ACTIVATIONS, "_rows", ACTIVATIONS.rows | {"silu": row})
    text = "exact mode: activation silu does not promise to be the identity"
    reason = refusal(point)
    assert (reason.code, reason.text) == ("exact_unsupported", f"{text} (identity_from in its row)")
    assert make_plan([case()], CPU).cases == (case(),)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"n": 192},
            "the gate/up seam, or without a gate the last intermediate column at 192 cuts",
        ),
        ({"n": 256, "tp_size": 4}, "a rank's shard ends at column 64, inside a block of 128"),
        ({"n": 384, "tp_size": 2}, "ends at column 192"),
        ({"n": 640, "dp_size": 2, "tp_size": 2}, "ends at column 160"),
    ],
)
def test_a_block_may_not_straddle_a_shard(fields, text):
    reason = refusal(case(quant="fp8_block", **fields))
    assert reason.code == "block_straddles_shard"
    assert text in reason.text


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 256, "tp_size": 2},
        {"n": 384, "tp_size": 2, "use_ep": True},  # experts are whole on every rank
        {"n": 256, "k": 100},  # the hidden size may end in part of a block
    ],
)
def test_whole_blocks_are_taken(fields):
    assert make_plan([case(quant="fp8_block", **fields)], CPU).cases


def test_the_rule_is_the_format_s_block_and_not_its_name(monkeypatch):
    odd = dataclasses.replace(FORMATS["fp8_block"], name="fp8_odd", block=(48, 48))
    monkeypatch.setattr(FORMATS, "_rows", {**FORMATS.rows, "fp8_odd": odd})
    scheme = Scheme(weights="fp8_odd", activations="fp8_group", weight_bytes=1)
    row = QuantSpec(name="odd", target="x:Y", scheme=scheme)
    monkeypatch.setattr(QUANT, "_rows", {**QUANT.rows, "odd": row})
    assert refusal(case(quant="odd", n=256)).code == "block_straddles_shard"
    assert make_plan([case(quant="odd", n=96, tp_size=2)], CPU).cases


def test_uneven_shards_are_taken_where_no_block_is_cut():
    assert make_plan([case(n=100, tp_size=8)], CPU).cases


def test_compiled_kernels_are_never_too_slow():
    big = case(experts="triton", m=222, n=1024, k=2048)
    assert make_plan([big], HOPPERS).cases == (big,)


def test_memory_counts_ranks_that_share_a_device():
    wide = case(n=2048, k=4096, num_experts=64, dp_size=8, use_ep=True)
    assert make_plan([wide], planned_for("cuda_sm90", 8)).cases
    assert refusal(wide, planned_for("cuda_sm90", 1)).code == "needs_memory"


def test_a_group_that_does_not_divide_the_hidden_size_is_refused():
    reason = refusal(case(quant="mxfp4", k=144))
    assert reason.code == "group_does_not_divide"
    assert "the hidden size 144 is not a multiple of a group, 32; choose" in reason.text
    fits = make_plan([case(quant="nvfp4", k=144)], CPU)
    assert len(fits.cases) == 1, "a group of 16 divides it"


def test_ranks_that_share_a_gpu_cannot_write_into_each_other_s_memory():
    puts = case(all2all="symm_mem", dp_size=4, use_ep=True)
    reason = refusal(puts, HOPPERS)
    assert reason.code == "ranks_share_device"
    assert reason.text.startswith("symm_mem: 4 ranks share 2 device(s), and ranks write into")
    assert make_plan([puts.replace(dp_size=2)], HOPPERS).refused == ()
    assert make_plan([puts], CPU).refused == (), "processes on a CPU can"
    assert make_plan([puts.replace(all2all="all_to_all")], HOPPERS).refused == ()
    reason = refusal(puts, planned_for("rocm_gfx942", 8))
    assert reason.code == "platform_lacks_feature"


def test_small_tiles_of_interpreted_kernels_are_for_small_layers():
    large = {"m": 16, "n": 256, "k": 384, "num_experts": 16, "top_k": 6, "experts": "triton"}
    reason = refusal(case(**large, call="small_tiles"))
    assert reason.code == "interpreter_too_slow"
    assert "interpreted kernels in small tiles would take about" in reason.text
    small = {**large, "n": 64, "k": 96, "num_experts": 4, "top_k": 2, "call": "small_tiles"}
    run = [
        case(**large),
        case(**small),
        case(**large, call="small_tiles").replace(experts="torch_loop"),
    ]
    assert len(make_plan(run, CPU).cases) == 3
    assert len(make_plan([case(**large, call="small_tiles")], planned_for("cuda_sm90")).cases) == 1
