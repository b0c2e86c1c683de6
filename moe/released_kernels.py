"""Name what is called of kernels for chips that nobody has run them on here. Torch-free.

The adapters are `moe.experts.flashinfer_trtllm` (FlashInfer's TensorRT-LLM kernels, whose routing
methods are named here, too), `deep_gemm_masked` and `aiter_fused`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.packages import Package
from moe.reason import Reason
from moe.spec import ROUTING_FIELDS, LayerSpec, Platform, reads

if TYPE_CHECKING:
    from moe.spec import RoutingMethod

_CORE = "flashinfer.fused_moe.core"
_ROUTED = "routing_logits, routing_bias, "
_SIZES = (
    "num_experts, top_k, n_group, topk_group, intermediate_size, local_expert_offset, "
    "local_num_experts, routed_scaling_factor, routing_method_type"
)
_LAYOUT = "use_shuffled_weight, weight_layout, activation_type"
_BF16 = f"hidden_states, gemm1_weights, gemm2_weights, {_SIZES}, {_LAYOUT}"
_FP8 = (
    "hidden_states, hidden_states_scale, gemm1_weights, gemm1_weights_scale, gemm2_weights, "
    f"gemm2_weights_scale, {_SIZES}, use_shuffled_weight, weight_layout, fp8_quantization_type, "
    "activation_type"
)
_FP4 = (
    "hidden_states, hidden_states_scale, gemm1_weights, gemm1_weights_scale, gemm1_bias, "
    "gemm1_alpha, gemm1_beta, gemm1_clamp_limit, gemm2_weights, gemm2_weights_scale, gemm2_bias, "
    "output1_scale_scalar, output1_scale_gate_scalar, output2_scale_scalar, "
    f"{_SIZES}, activation_type"
)


def _flashinfer(*calls: str) -> Package:
    return Package(
        distribution="flashinfer-python",
        module="flashinfer",
        at_least="0.6.13",
        why="the version whose arguments these adapters were written for",
        calls=(
            *calls,
            "flashinfer.tllm_enums:RoutingMethodType",
            "flashinfer.tllm_enums:ActivationType",
            "flashinfer.tllm_enums:WeightLayout",
            "flashinfer.tllm_enums:Fp8QuantizationType",
        ),
        imports=(_CORE,),
    )


TRTLLM = _flashinfer(
    f"{_CORE}:trtllm_bf16_moe({_ROUTED}{_BF16}, norm_topk_prob)",
    f"{_CORE}:trtllm_fp8_block_scale_moe({_ROUTED}{_FP8}, norm_topk_prob)",
    f"{_CORE}:trtllm_fp4_block_scale_moe({_ROUTED}{_FP4}, norm_topk_prob)",
)
TRTLLM_ROUTED = _flashinfer(
    f"{_CORE}:trtllm_bf16_routed_moe(topk_ids, {_BF16})",
    f"{_CORE}:trtllm_fp8_block_scale_routed_moe(topk_ids, routing_bias, {_FP8})",
    f"{_CORE}:trtllm_fp4_block_scale_routed_moe(topk_ids, routing_bias, {_FP4})",
)

# The same names are other people's in the usual index: a package that does not have what is called
# is refused.
DEEP_GEMM = Package(
    distribution="deep_gemm",
    module="deep_gemm",
    at_least="2.0",
    why="the masked product takes codes and scales in pairs since then",
    calls=("deep_gemm:m_grouped_fp8_gemm_nt_masked",),
)
AITER = Package(
    distribution="amd-aiter",
    module="aiter",
    calls=(
        "aiter.fused_moe:fused_moe(hidden_states, w1, w2, topk_weight, topk_ids, expert_mask, "
        "activation, quant_type)",
        "aiter.ops.shuffle:shuffle_weight",
    ),
    imports=("aiter.fused_moe",),
)


def method_name(method: RoutingMethod) -> str | None:
    """Return the name of the RoutingMethodType that computes this method, or None if none does.

    By name, never by number: the numbers differ between versions.
    """
    if method.weights_input:
        return None
    if method.router == "softmax" and not method.options:
        return "Renormalize" if method.renormalize else "Default"
    if method.router != "sigmoid":
        return None
    if not method.options:
        return "SigmoidRenorm" if method.renormalize else "Sigmoid"
    # Sigmoid, bias, groups by their two best experts, weights renormalised and scaled.
    return "DeepSeekV3" if method.bias and method.renormalize else None


@reads(*ROUTING_FIELDS)
def method_exists(layer_spec: LayerSpec, _: Platform) -> Reason | None:
    """Refuse a combination of options that no RoutingMethodType computes."""
    method = layer_spec.routing_method
    if method_name(method) is not None:
        return None
    options = ", ".join(method.options) or "no options"
    text = (
        f"FlashInfer's kernels have no routing method for {method.router} with {options}, "
        f"{'' if method.renormalize else 'not '}renormalised"
    )
    return Reason(code="routing_option_unsupported", text=text)
