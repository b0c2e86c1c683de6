"""A call mode is refused where the machine, the layer or a member's row does not allow it."""

from __future__ import annotations

import dataclasses

import pytest

from harness.matrix.call_modes import CALL_MODES
from harness.matrix.case import MoETestConfig
from harness.plan import call_needs
from harness.plan.machine import planned_for
from harness.plan.plan import make_plan
from moe import families
from tests.harness.plan.points import CPU, HOPPERS, case, refusal

GROUPED = {"experts": "torch_grouped"}
SHARED = {**GROUPED, "shared_experts": 1}


@pytest.mark.parametrize(
    ("fields", "machine", "code"),
    [
        ({**GROUPED, "call": "graph"}, CPU, "call_mode_needs_device"),
        ({**SHARED, "call": "side_stream"}, CPU, "call_mode_needs_device"),
        ({**GROUPED, "call": "graph", "tp_size": 4}, HOPPERS, "call_mode_needs_device"),
        ({**GROUPED, "call": "side_stream"}, HOPPERS, "no_shared_experts"),
        (
            {**SHARED, "call": "side_stream", "shared_fused": True},
            HOPPERS,
            "no_shared_experts",
        ),
        (
            {"experts": "torch_loop", "quant": "fp8_tensor_dynamic", "call": "two_batches"},
            CPU,
            "call_mode_changes_scale",
        ),
        (
            {**SHARED, "shared_quant": "nvfp4_dynamic", "call": "two_batches"},
            CPU,
            "call_mode_changes_scale",
        ),
        ({"experts": "torch_loop", "call": "compile"}, CPU, "call_mode_unsupported"),
        ({**GROUPED, "call": "compile", "router": "triton_softmax"}, CPU, "call_mode_unsupported"),
        (
            {**GROUPED, "call": "graph", "dp_size": 2, "use_ep": True},
            HOPPERS,
            "call_mode_unsupported",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fields, machine, code):
    assert refusal(case(**fields), machine).code == code


@pytest.mark.parametrize(
    ("fields", "machine"),
    [
        ({**GROUPED, "call": "compile"}, CPU),
        ({**GROUPED, "call": "aot_eager", "tp_size": 2}, CPU),  # nobody to exchange tokens with
        ({**GROUPED, "call": "two_batches", "dp_size": 2, "use_ep": True}, CPU),
        ({**SHARED, "shared_quant": "fp8_block", "call": "two_batches"}, CPU),
        ({**GROUPED, "call": "graph", "tp_size": 2}, HOPPERS),
        ({**SHARED, "call": "side_stream", "dp_size": 2, "use_ep": True}, HOPPERS),
    ],
)
def test_what_fits_is_planned(fields, machine):
    point = case(**fields)
    assert make_plan([point], machine).cases == (point,)


def test_a_graph_needs_members_that_take_padding():
    assert case(**GROUPED, call="graph").layer_spec.padding
    assert not case(**GROUPED, call="compile").layer_spec.padding


def test_inductor_needs_a_compiler_on_a_cpu(monkeypatch, tmp_path):
    machine = dataclasses.replace(planned_for("cpu"), planned=False)
    assert call_needs.no_compiler(machine) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    reason = call_needs.no_compiler(machine)
    assert reason.code == "call_mode_needs_compiler"
    assert "aot_eager" in reason.text
    assert call_needs.no_compiler(HOPPERS) is None


def test_rows_name_only_words_that_a_mode_asks_for():
    words = {mode.word for mode in CALL_MODES.values()}
    for family, table in families.tables(("experts", "all2all", "router", "layer")):
        for row in table:
            named = row.needs.call_modes | row.needs.alone_call_modes
            assert named <= words, f"{family}/{row.name}"


@pytest.mark.parametrize("all2all", ["all_to_all", "symm_mem"])
def test_an_all2all_backend_that_asks_the_host_for_counts_refuses_a_graph_even_alone(all2all):
    point = case(**GROUPED, call="graph", tp_size=2)
    assert call_needs.unnamed_mode(point) is None  # of allgather_reducescatter, which sends nothing
    assert call_needs.unnamed_mode(point.replace(all2all=all2all)).code == "call_mode_unsupported"


def test_a_mode_that_splits_or_records_a_call_refuses_load_balancing():
    fields = {"eplb": "global", "redundant": 2, "dp_size": 2, "use_ep": True}
    sizes = {"m": 16, "n": 64, "k": 64, "num_experts": 4, "top_k": 2, "experts": "torch_loop"}
    balanced = MoETestConfig(**sizes, **fields, call="two_batches")
    reason = call_needs.unnamed_mode(balanced)
    assert reason is not None
    assert reason.code == "call_mode_unsupported"
    assert "leave eplb or the mode out" in reason.text
    assert call_needs.unnamed_mode(balanced.replace(call="strided")) is None
