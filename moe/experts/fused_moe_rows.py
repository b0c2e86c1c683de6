"""Define the rows of the Triton kernels of vLLM and SGLang, called without their libraries.

Torch-free. Their quantizers are compiled or round by a function that the interpreter lacks, so that
this layer's own quantize: the numerics differ from those of `vllm_triton` in that alone.
"""

from __future__ import annotations

from dataclasses import replace

from moe.packages import Package
from moe.spec import MemberSpec, Needs
from moe.stated_numerics import EVERY_STEP, FP8_ALIGNED, FP8_SHORT

_FORMATS = frozenset(
    {
        ("model", "model"),
        ("fp8_tensor", "fp8_static"),
        ("fp8_channel", "fp8_token"),
        ("fp8_block", "fp8_group"),
        ("int8_channel", "int8_token"),
    }
)
_NEEDS = Needs(
    features=frozenset({"triton"}),
    dtypes=frozenset({"bf16", "fp16"}),
    formats=_FORMATS,
    activation_functions=frozenset(
        f + way for f in ("silu", "gelu", "gelu_tanh") for way in ("", "_no_mul")
    )
    | {"relu2_no_mul"},
    layer_features=frozenset({"expert_bias"}),
    padding=True,
    moe_tp=True,
)
# f(gate) is rounded before the product with up, and the second product only after it was multiplied
# by the router weight. fp8 sums stay in a tensor core's short accumulator, or are promoted with
# each step of 128, where each has a scale of its own.
_PRODUCTS = replace(EVERY_STEP, expert="f32", weighted="model", combine_order="slots")
_FP8 = replace(_PRODUCTS, accumulation=FP8_SHORT, aligned=FP8_ALIGNED)
_NUMERICS_OF = {
    "fp8_static": _FP8,
    "fp8_token": _FP8,
    "fp8_group": replace(_FP8, promoted=128),
}
_VLLM = "vllm.model_executor.layers.fused_moe"
_SGLANG = "sglang.kernels.ops.moe.fused_moe_triton_kernels"
_FLAGS = "use_fp8_w8a8, use_int8_w8a8, use_int8_w8a16, use_int4_w4a16, per_channel_quant"
VLLM_KERNEL = Package(
    distribution="vllm",
    module="vllm",
    at_least="0.33",
    why="the version whose arguments this adapter was written for",
    calls=(
        f"{_VLLM}.fused_moe:invoke_fused_moe_triton_kernel(A, B, C, A_scale, B_scale, "
        "topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, "
        f"top_k, config, compute_type, {_FLAGS}, block_shape, B_bias)",
        f"{_VLLM}.fused_moe:get_default_config(M, E, N, K, topk, dtype, block_shape)",
        f"{_VLLM}.fused_moe:_prepare_expert_assignment"
        "(topk_ids, config, num_tokens, top_k_num, global_num_experts, expert_map)",
    ),
    imports=("moe.vllm_kernels",),
)
SGLANG_KERNEL = Package(
    distribution="sglang",
    module="sglang",
    at_least="0.5.23",
    why="the version whose arguments this adapter was written for",
    calls=(
        f"{_SGLANG}:invoke_fused_moe_kernel(A, B, bias, C, A_scale, B_scale, B_zp, topk_weights, "
        "topk_ids, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, "
        f"config, compute_type, {_FLAGS}, block_shape)",
        f"{_SGLANG}:moe_sum_reduce_triton(input, output, routed_scaling_factor)",
        "sglang.srt.layers.moe.moe_runner.triton_utils.fused_moe_triton_config:get_default_config"
        "(M, E, N, K, topk, dtype, is_marlin, block_shape)",
    ),
    imports=("moe.sglang_kernels",),
)
ROWS = (
    MemberSpec(
        name="vllm_fused_moe",
        target="moe.experts.fused_moe:VllmFusedMoE",
        needs=replace(
            _NEEDS,
            dtypes=frozenset({"bf16", "fp16", "f32"}),
            tactics="moe.tuned_tiles:vllm_tiles",
            packages=(VLLM_KERNEL, "triton"),
            probe="moe.released_vllm:multiplies_exactly",
        ),
        numerics=_PRODUCTS,
        numerics_of=_NUMERICS_OF,
        deterministic=True,
    ),
    MemberSpec(
        name="sglang_fused_moe",
        target="moe.experts.fused_moe:SglangFusedMoE",
        needs=replace(
            _NEEDS, tactics="moe.tuned_tiles:sglang_tiles", packages=(SGLANG_KERNEL, "triton")
        ),
        numerics=_PRODUCTS,
        numerics_of=_NUMERICS_OF,
        deterministic=True,
    ),
)
