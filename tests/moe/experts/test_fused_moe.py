"""The Triton kernels of vLLM and SGLang, where these are installed, with their stated roundings."""

import pytest

from harness.execute import run_case
from harness.record.result import Verdict
from moe.experts.fused_moe_rows import SGLANG_KERNEL, VLLM_KERNEL
from moe.kernels.launch import INTERPRETED
from tests.harness.execute_ranks import case, context
from tests.moe.released_subjects import needs

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not INTERPRETED, reason="ranks of these tests have no GPU"),
]
BOTH = [
    pytest.param("vllm_fused_moe", marks=needs(VLLM_KERNEL)),
    pytest.param("sglang_fused_moe", marks=needs(SGLANG_KERNEL)),
]
PLAIN = {"all2all": "local", "m": 5, "n": 40, "k": 72, "num_experts": 4, "top_k": 2}
BLOCKS = {**PLAIN, "n": 128, "k": 256, "quant": "fp8_block"}


@pytest.mark.parametrize("experts", BOTH)
@pytest.mark.parametrize(
    "fields",
    [
        {"expert_bias": True},
        {"dtype": "fp16", "activation": "gelu_tanh", "tactic": "m16n32k64g1"},
        {"activation": "relu2_no_mul"},
        {"quant": "int8_channel"},
        {"quant": "fp8_channel"},
        {"quant": "fp8_block", "n": 128, "k": 256},
        {"padding": "middle"},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_it_passes_with_its_stated_roundings(experts, fields):
    assert run_case(case(**PLAIN | fields, experts=experts), context()).verdict is Verdict.PASSED


@needs(VLLM_KERNEL)
def test_few_slots_for_many_experts_pass():
    point = case(**PLAIN | {"m": 1, "num_experts": 16}, experts="vllm_fused_moe")
    assert run_case(point, context()).verdict is Verdict.PASSED


@needs(SGLANG_KERNEL)
def test_a_tuned_tile_of_sglang_uses_scales_of_other_columns(monkeypatch):
    """docs/found.md says this of version 0.5.23: once it fails, mend that page."""
    monkeypatch.setattr("harness.diagnosis.causes.SECONDS", 0.0)
    point = case(**BLOCKS, experts="sglang_fused_moe", tactic="m16n128k256g1")
    result = run_case(point, context())
    assert result.verdict is Verdict.FAILED
    assert result.metrics["rel_rms"] > 0.3
    assert run_case(point.replace(tactic="m16n128k128g1"), context()).verdict is Verdict.PASSED


@needs(VLLM_KERNEL)
def test_the_same_tile_of_vllm_is_cut_to_a_block():
    point = case(**BLOCKS, experts="vllm_fused_moe", tactic="m16n128k256g1")
    assert run_case(point, context()).verdict is Verdict.PASSED
