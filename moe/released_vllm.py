"""Name what is called of vLLM, and the sizes that its kernels do not take. Torch-free.

The adapters are `moe.experts.vllm_triton`, `moe.experts.vllm_permute`, `moe.experts.marlin`,
`moe.experts.triton_kernels_experts` and `moe.routers.vllm_softmax`. docs/released-backends.md says
where vLLM rounds.
"""

from __future__ import annotations

from moe.packages import Package
from moe.reason import Reason
from moe.spec import BLOCK, LayerSpec, Platform, reads, resolve

_MOE = "vllm.model_executor.layers.fused_moe"
_ALIGNED = 32  # moe_align_block_size rounds the number of experts up to this, ...
_MOST_ALIGNED = 1024  # ... and has a thread for each of fewer than these
# Chip -> columns of the least block whose mxfp4 scales triton_kernels reads in the chip's layout.
# Its blocks have 256 columns where a product has more than 128, and else the next power of two.
_LEAST_BLOCK = {"sm90": 256, "sm100": 128}
_ACTIVATION = f"{_MOE}.activation:apply_moe_activation(activation, output, input)"


def _vllm(*calls: str) -> Package:
    return Package(
        distribution="vllm",
        module="vllm",
        at_least="0.33",
        why="the oldest version that these adapters were tested with",
        calls=calls,
        # Imported together, so that a plan starts one process for all of them.
        imports=(f"{_MOE}.fused_moe",),
    )


TRITON = _vllm(
    f"{_MOE}.moe_align_block_size:moe_align_block_size"
    "(topk_ids, block_size, num_experts, expert_map, ignore_invalid_experts)",
    f"{_MOE}.fused_moe:try_get_optimal_moe_config"
    "(w1_shape, w2_shape, top_k, dtype, M, block_shape)",
    f"{_MOE}.fused_moe:invoke_fused_moe_triton_kernel"
    "(A, B, C, A_scale, B_scale, topk_weights, sorted_token_ids, expert_ids, "
    "num_tokens_post_padded, mul_routed_weight, top_k, config, compute_type, use_fp8_w8a8, "
    "use_int8_w8a8, use_int8_w8a16, use_int4_w4a16, per_channel_quant, block_shape)",
    _ACTIVATION,
    f"{_MOE}.utils:moe_kernel_quantize_input(A, A_scale, quant_dtype, per_act_token_quant)",
    "vllm.model_executor.layers.quantization.utils.fp8_utils:per_token_group_quant_fp8"
    "(x, group_size, use_ue8m0)",
    "vllm._custom_ops:moe_sum(input, output, topk_ids, expert_map)",
)
PERMUTE = _vllm(
    f"{_MOE}.moe_permute_unpermute:moe_permute"
    "(hidden_states, a1q_scale, topk_ids, n_expert, n_local_expert, expert_map)",
    f"{_MOE}.moe_permute_unpermute:moe_unpermute"
    "(out, permuted_hidden_states, topk_weights, inv_permuted_idx, expert_first_token_offset)",
    _ACTIVATION,
)
MARLIN = _vllm(
    f"{_MOE}.experts.marlin_moe:fused_marlin_moe"
    "(hidden_states, w1, w2, bias1, bias2, w1_scale, w2_scale, topk_weights, topk_ids, "
    "quant_type_id, global_num_experts, activation, expert_map, w1_zeros, w2_zeros, "
    "intermediate_cache13, intermediate_cache2, output)",
    "vllm.scalar_type:scalar_types",
)
_OAI = "vllm.third_party.triton_kernels"  # a copy of the package triton_kernels
TRITON_KERNELS = _vllm(
    "vllm.utils.import_utils:has_triton_kernels()",
    f"{_OAI}.matmul_ogs:matmul_ogs(x, w, bias, routing_data, precision_config)",
    f"{_OAI}.routing:compute_expt_data(expt_hist, n_expts_tot, n_gates)",
    f"{_OAI}.tensor:convert_layout(tensor, layout_cls)",
    f"{_OAI}.tensor:wrap_torch_tensor(torch_tensor, dtype)",
)
ROUTER = _vllm(
    "vllm._custom_ops:topk_softmax"
    "(topk_weights, topk_ids, token_expert_indices, gating_output, renormalize)"
)


@reads(
    *("num_experts", "shared_experts", "shared_fused"),
    *("hidden", "intermediate", "layout", "scheme", "redundant", "placed"),
)
def sizes_fit(layer_spec: LayerSpec, _: Platform) -> Reason | None:
    """Refuse more experts than vLLM aligns, and sizes that cut a group of its quantization."""
    return _too_many_experts(layer_spec) or _cut_group(layer_spec)


@reads(
    *("num_experts", "shared_experts", "shared_fused", "dtype"),
    *("hidden", "intermediate", "layout", "scheme", "redundant", "placed"),
)
def marlin_fits(layer_spec: LayerSpec, _: Platform) -> Reason | None:
    """Refuse more experts than vLLM aligns, rows of a single group, and mxfp4 in fp16."""
    return _too_many_experts(layer_spec) or _single_group(layer_spec) or _fp16_powers(layer_spec)


@reads("hidden", "intermediate", "layout", "scheme", "activation")
def blocks_hold_scales(layer_spec: LayerSpec, platform: Platform) -> Reason | None:
    """Refuse products of mxfp4 too narrow for the block that triton_kernels' layout asks for."""
    blocks = (block for chip, block in _LEAST_BLOCK.items() if chip in platform.features)
    block = next(blocks, None)
    if block is None or layer_spec.scheme.weights != "mxfp4":
        return None
    gates = 2 if layer_spec.gated else 1
    widths = [("first", gates * min(layer_spec.shard_sizes)), ("second", layer_spec.hidden)]
    for which, columns in widths:
        if columns <= block // 2:
            text = (
                f"the {which} product has {columns} columns; with mxfp4 on {platform.name} "
                f"triton_kernels reads scales for blocks of {block}, which need more than "
                f"{block // 2}"
            )
            return Reason(code="size_too_small", text=text)
    return None


@reads("dtype")
def multiplies_exactly(layer_spec: LayerSpec, platform: Platform) -> Reason | None:
    """Refuse float32 on an NVIDIA GPU: the kernel leaves the precision of its products to Triton.

    Triton's default there is TF32, which keeps 11 bits of an operand.
    """
    if layer_spec.dtype != "f32" or "cuda" not in platform.features:
        return None
    text = f"vLLM's kernel multiplies f32 as TF32 on {platform.name}; take bf16 or fp16"
    return Reason(code="dtype_unsupported", text=text)


def _single_group(layer_spec: LayerSpec) -> Reason | None:
    """Refuse sizes of one group, whose scale Marlin reads in another order and applies later."""
    group = resolve("moe.formats:FORMATS")[layer_spec.scheme.weights].group
    for noun, size in (("hidden size", layer_spec.hidden), *_shards(layer_spec)):
        if group is not None and size <= group:
            text = f"{noun} {size} is a single group of {layer_spec.scheme.weights}; Marlin's rows "
            return Reason(code="single_group", text=f"{text}have at least two")
    return None


def _fp16_powers(layer_spec: LayerSpec) -> Reason | None:
    """Refuse e8m0 scales with fp16 activations, for which no kernel is compiled."""
    fmt = resolve("moe.formats:FORMATS")[layer_spec.scheme.weights]
    if layer_spec.dtype != "fp16" or fmt.scale_dtype != "e8m0":
        return None
    return Reason(code="dtype_unsupported", text=f"takes {fmt.name} in bf16 only, not fp16")


def _too_many_experts(layer_spec: LayerSpec) -> Reason | None:
    """Refuse ranks with too many experts, counting the one that stands for other ranks' experts."""
    placement, layout = layer_spec.placement, layer_spec.layout
    ranks = {layout.ep_rank(rank) for rank in range(layout.world_size)}
    largest = max(len(placement.experts_of(rank)) for rank in ranks)
    aligned = -(-(largest + 1) // _ALIGNED) * _ALIGNED
    if aligned < _MOST_ALIGNED:
        return None
    limit = _MOST_ALIGNED - _ALIGNED - 1
    text = f"moe_align_block_size takes at most {limit} experts on a rank, not {largest}"
    return Reason(code="too_many_experts", text=text)


def _cut_group(layer_spec: LayerSpec) -> Reason | None:
    """Refuse rows that are not a multiple of a group, where each group has a scale."""
    formats = resolve("moe.formats:FORMATS")
    group = formats[layer_spec.scheme.activations]
    if group.block != (1, BLOCK):
        return None
    for noun, size in (("hidden size", layer_spec.hidden), *_shards(layer_spec)):
        if size % BLOCK:
            text = f"{noun} {size} is not a multiple of {BLOCK}, as {group.name} needs"
            return Reason(code="size_not_multiple", text=text)
    return None


def _shards(layer_spec: LayerSpec) -> tuple[tuple[str, int], ...]:
    return tuple(("a rank's intermediate size", size) for size in layer_spec.shard_sizes)
