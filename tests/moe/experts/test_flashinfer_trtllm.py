"""FlashInfer's TensorRT-LLM experts: weights and arguments. No machine here runs the kernels."""

import dataclasses

import pytest
import torch

from moe import conversions
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.experts.flashinfer_trtllm import bf16_arguments, first_expert, global_routing
from moe.layout import Layout
from moe.platforms import platform
from moe.spec import experts_refusal
from moe.types import Routing
from tests.moe.experts.unrun_backends import Recorder, install, made, shifted
from tests.moe.kernels.kernel_cases import layer_spec_of

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = ("Renormalize", "Default", "SigmoidRenorm", "Sigmoid", "DeepSeekV3", "Unspecified")
ENUMS = {
    "RoutingMethodType": shifted("RoutingMethodType", *METHODS),
    "ActivationType": shifted("ActivationType", "Relu2", "Swiglu"),
    "WeightLayout": shifted("WeightLayout", "BlockMajorK", "MajorK"),
    "Fp8QuantizationType": shifted("Fp8QuantizationType", "MxFp8", "DeepSeekFp8"),
}


@pytest.fixture
def kernels(monkeypatch):
    names = ("trtllm_bf16_moe", "trtllm_fp8_block_scale_moe")
    names += ("trtllm_bf16_routed_moe", "trtllm_fp8_block_scale_routed_moe")
    names += ("trtllm_fp4_block_scale_moe", "trtllm_fp4_block_scale_routed_moe")
    functions = {name: Recorder() for name in names}
    install(
        monkeypatch,
        flashinfer={},
        flashinfer__tllm_enums=ENUMS,
        flashinfer__fused_moe={},
        flashinfer__fused_moe__core=functions,
    )
    return functions


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({}, "Renormalize", {"routed_scaling_factor": None, "norm_topk_prob": True}),
        ({"renormalize": False}, "Default", {"norm_topk_prob": False}),
        ({"router": "sigmoid"}, "SigmoidRenorm", {"n_group": None}),
        ({"router": "sigmoid", "renormalize": False}, "Sigmoid", {}),
        (
            {
                "router": "sigmoid",
                "router_bias": True,
                "router_groups": 4,
                "chosen_groups": 2,
                "router_scale": 2.5,
            },
            "DeepSeekV3",
            {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5},
        ),
    ],
)
def test_the_layer_s_routing_method_is_passed_on_by_name(kernels, fields, name, expected):
    backend, x, _, _ = made("flashinfer_trtllm", **fields)
    backend.router_bias = torch.arange(8.0) if fields.get("router_bias") else None
    logits = torch.randn(32, 8)
    backend.apply(x, logits)
    given = kernels["trtllm_bf16_moe"].options
    assert given["routing_method_type"] == ENUMS["RoutingMethodType"][name].value
    assert given["top_k"] == 2
    assert {key: given[key] for key in expected} == expected
    assert torch.equal(given["routing_logits"], logits)
    bias = given["routing_bias"]
    assert (bias is None) == (backend.router_bias is None)


def test_a_method_that_no_kernel_has_is_an_error(kernels):
    backend, x, _, _ = made("flashinfer_trtllm", router="softmax", router_scale=2.0)
    with pytest.raises(MoEError, match="no routing method for RoutingMethod"):
        backend.apply(x, torch.randn(32, 8))


def test_bf16_weights_come_back_from_the_kernel_s_layout(kernels):
    backend, x, _, weights = made("flashinfer_trtllm", hidden=256)
    backend.apply(x, torch.randn(32, 8))
    given = kernels["trtllm_bf16_moe"].options
    assert given["gemm1_weights"].shape == (8, 256 // 64, 256, 64), "blocks of 128 bytes"
    back = conversions.unshuffled_rows(conversions.row_major(given["gemm1_weights"]))
    assert torch.equal(conversions.halves_swapped(conversions.deinterleaved(back)), weights.w13)
    back = conversions.unshuffled_rows(conversions.row_major(given["gemm2_weights"]))
    assert torch.equal(back, weights.w2)
    assert given["use_shuffled_weight"] is True
    assert given["weight_layout"] == ENUMS["WeightLayout"].BlockMajorK.value
    assert given["activation_type"] == ENUMS["ActivationType"].Swiglu.value
    assert given["intermediate_size"] == 128


def test_fp8_scales_follow_their_halves_and_those_of_tokens_lie_by_group(kernels):
    backend, x, _, weights = made("flashinfer_trtllm", "fp8_block", hidden=256)
    backend.apply(x, torch.randn(32, 8))
    given = kernels["trtllm_fp8_block_scale_moe"].options
    for name, original in (("gemm1_weights", weights.w13), ("gemm2_weights", weights.w2)):
        expected = conversions.halves_swapped(original) if name == "gemm1_weights" else original
        assert torch.equal(given[name].view(torch.uint8), expected.view(torch.uint8))
    assert torch.equal(given["gemm1_weights_scale"], weights.w13_scale.flip(1))
    assert torch.equal(given["hidden_states_scale"], x.scale.t())
    assert given["use_shuffled_weight"] is False
    assert given["fp8_quantization_type"] is ENUMS["Fp8QuantizationType"].DeepSeekFp8


@pytest.mark.parametrize(
    ("quant_name", "groups"), [("mxfp4", None), ("mxfp4_mxfp8", 8), ("nvfp4", 16)]
)
def test_fp4_is_given_with_the_input_s_scales_as_bytes(kernels, quant_name, groups):
    backend, x, routing, _ = made("flashinfer_trtllm", quant_name, hidden=256)
    backend.apply(x, torch.randn(32, 8))
    given = kernels["trtllm_fp4_block_scale_moe"].options
    assert given["hidden_states"] is x.codes
    scale = given["hidden_states_scale"]
    assert (scale is None) == (groups is None)
    if scale is not None:
        assert (scale.dtype, scale.shape) == (torch.float8_e4m3fn, (32, groups))
    assert given["intermediate_size"] == 128
    assert not {"use_shuffled_weight", "weight_layout"} & given.keys()
    routed, x, routing, _ = made("flashinfer_trtllm_routed", quant_name, hidden=256)
    routed.apply(x, routing)
    other = kernels["trtllm_fp4_block_scale_routed_moe"].options
    assert other["routing_bias"] is None
    assert torch.equal(other["gemm1_weights"], given["gemm1_weights"])


@pytest.mark.parametrize("quant_name", ["none", "fp8_block"])
def test_a_rank_names_its_range_of_experts(kernels, quant_name):
    layout = Layout(dp_size=2, use_ep=True)
    backend, x, routing, _ = made(
        "flashinfer_trtllm_routed", quant_name, rank=1, layout=layout, unused=0.5
    )
    local = dataclasses.replace(routing, topk_ids=(routing.topk_ids % 4).where(
        routing.topk_ids >= 0, -1
    ))  # fmt: skip
    backend.apply(x, local)
    (given,) = (k.options for k in kernels.values() if k.calls)
    assert (given["local_expert_offset"], given["local_num_experts"]) == (4, 4)
    assert given["num_experts"] == 8
    ids, weights = conversions.unpacked_routing(given["topk_ids"])
    used = local.topk_ids >= 0
    assert torch.equal(ids[used], local.topk_ids[used] + 4)
    assert set(ids[~used].tolist()) == {0}, "an expert of the other rank"
    assert torch.equal(weights[~used].float(), torch.zeros(int((~used).sum())))


def test_where_every_expert_is_here_an_absent_slot_weighs_nothing():
    routing = Routing(
        topk_ids=torch.tensor([[1, -1]], dtype=torch.int32),
        topk_weights=torch.tensor([[0.5, torch.nan]]),
    )
    ids, weights = conversions.unpacked_routing(global_routing(routing, 0, 2, 2))
    assert ids.tolist() == [[1, 0]]
    assert weights.float().tolist() == [[0.5, 0.0]]


def test_experts_that_are_not_in_a_row_are_an_error():
    assert first_expert((2, 3, 4)) == 2
    assert first_expert(()) == 0
    with pytest.raises(MoEError, match=r"holds experts \(0, 2\), and the kernel takes a range"):
        first_expert((0, 2))


def test_the_arguments_are_those_of_the_layer_and_no_others_are_invented(kernels):
    """Beside the package's own signatures, where it is installed: moe/released_kernels.py."""
    backend, x, _, weights = made("flashinfer_trtllm")
    assert bf16_arguments(weights).keys() <= backend._arguments(x).keys()


@pytest.mark.parametrize("name", ["flashinfer_trtllm", "flashinfer_trtllm_routed"])
def test_both_are_refused_on_chips_without_the_kernels(name):
    row = EXPERTS.row(name)
    reason = experts_refusal(row.needs, layer_spec_of("none"), platform("cuda_sm90"))
    assert reason.code == "platform_lacks_feature"
    assert "needs sm100" in reason.text
