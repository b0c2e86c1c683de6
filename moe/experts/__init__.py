"""List the experts backends, in order of preference: one row and one file per backend.

A row declares what the backend supports (`needs`) and where it rounds (`numerics`).
"""

from __future__ import annotations

from dataclasses import replace

from moe import released, released_kernels, released_vllm
from moe.formats.int4.spec import ROWS as INT4
from moe.formats.int8.spec import WEIGHT_ONLY as INT8
from moe.registry import Registry
from moe.spec import ANY, BATCHED, MONOLITHIC, STANDARD, MemberSpec, Needs, Numerics

# Each product, and f(gate) * up, is rounded to the layer's dtype. Tensor cores sum bf16 and fp16
# products in float32, but drop low bits when they align the terms.
_ROUNDED = Numerics.stated(gemm1="model", activation="model", expert="model", accumulation=2.0**-22)
# Hopper's tensor cores sum fp8 products in a short accumulator: 32 at a time, truncated 13 bits
# below the largest exponent among them. (An emulation of this has the same bits as the hardware in
# 80 % of measured sums, and the same largest error.) Over 4096 terms the relative error is 2**-9.5.
# The Triton kernels add it to a float32 accumulator every 128 elements.
_FP8_SHORT, _FP8_ALIGNED = 2.0**-15.5, (32, 13)
_FP8_PROMOTED = replace(_ROUNDED, accumulation=_FP8_SHORT, promoted=128, aligned=_FP8_ALIGNED)
# Frameworks compute each step in the layer's dtype: f(gate) is rounded before the product with up.
_EVERY_STEP = replace(_ROUNDED, activated_gate="model")
_TRANSFORMERS = Needs(
    dtypes=ANY,
    activation_functions=frozenset(released.ACTIVATION_NAMES),
    packages=(released.TRANSFORMERS_EXPERTS,),
)
_TRITON_ACTIVATIONS = frozenset(  # those whose row names a function of the kernels
    {
        *("silu", "gelu_tanh", "gelu", "relu2", "swiglu_clamped"),
        *("silu_no_mul", "gelu_tanh_no_mul", "gelu_no_mul", "relu2_no_mul"),
    }
)
# Pairs of one-byte formats: (weights, activations).
_FP8_PAIRS = frozenset(
    {
        ("fp8_tensor", "fp8_static"),
        ("fp8_tensor", "fp8_dynamic"),
        ("fp8_tensor", "fp8_token"),
        ("fp8_channel", "fp8_static"),
        ("fp8_channel", "fp8_dynamic"),
        ("fp8_channel", "fp8_token"),
        ("fp8_block", "fp8_group"),
    }
)
_FNUZ_PAIRS = frozenset(
    {
        ("fp8_fnuz_tensor", "fp8_fnuz_static"),
        ("fp8_fnuz_tensor", "fp8_fnuz_dynamic"),
        ("fp8_fnuz_channel", "fp8_fnuz_token"),
        ("fp8_fnuz_block", "fp8_fnuz_group"),
    }
)
_INT8_PAIRS = frozenset({("int8_channel", "int8_token"), ("int8_block", "int8_group")})
# Pairs whose codes the kernels decode as they load them; the scales belong to groups of columns.
_DECODED_PAIRS = frozenset(
    {
        *((row.name, "model") for row in (*INT4, *INT8)),
        ("int4_g128", "fp8_token"),
        ("mxfp8", "mxfp8"),
        ("mxfp4", "model"),
        ("mxfp4", "mxfp8"),
        ("mxfp4", "mxfp4"),
        ("nvfp4", "nvfp4_static"),
        ("nvfp4", "nvfp4_dynamic"),
    }
)
_VLLM_ACTIVATIONS = frozenset({"silu", "gelu_tanh"})
# vLLM rounds f(gate) before the product with up, and multiplies the second product by the router
# weight before its only rounding. Its dynamic scales are amax / max in its sources, with amax at
# least 1e-10 where it belongs to a row or a group; on a Hopper they are amax times the reciprocal
# (measured: with an IEEE division some rows near a tie get other codes).
_VLLM = Numerics.stated(
    gemm1="model",
    activated_gate="model",
    activation="model",
    weighted="model",
    combine_order="slots",
    accumulation=2.0**-22,
)
_VLLM_DYNAMIC = replace(_VLLM, amax_floor=1e-10)
# Its fp8 sums stay in the short accumulator, except that a block's sum is added in float32.
_VLLM_FP8 = replace(_VLLM, accumulation=_FP8_SHORT, aligned=_FP8_ALIGNED)
# What a backend need not know of: it gets local ids, -1 for all others, and the size it works on.
_LAYER_FEATURES = frozenset({"fused_shared", "zero_experts", "expert_bias", "latent"})

_TRTLLM = Needs(
    features=frozenset({"cuda", "sm100"}),
    formats=frozenset({("model", "model"), ("fp8_block", "fp8_group")}),
    hidden_multiple=128,
    shard_multiple=128,
)
EXPERTS: Registry[MemberSpec] = Registry(
    "experts",
    (
        MemberSpec(
            name="triton",
            target="moe.experts.triton:TritonExperts",
            kind="modular",
            dispatch_format=STANDARD,
            needs=Needs(
                features=frozenset({"triton"}),
                dtypes=frozenset({"bf16", "fp16"}),
                formats=frozenset({("model", "model")})
                | _FP8_PAIRS
                | _FNUZ_PAIRS
                | _INT8_PAIRS
                | _DECODED_PAIRS,
                activation_functions=_TRITON_ACTIVATIONS,
                layer_features=_LAYER_FEATURES,
                padding=True,
                adapters=True,
                packages=("triton",),
            ),
            deterministic=True,
            numerics=_ROUNDED,
            numerics_of=dict.fromkeys(
                {activations for _, activations in _FP8_PAIRS}, _FP8_PROMOTED
            ),
        ),
        MemberSpec(
            name="triton_batched",
            target="moe.experts.triton_batched:TritonBatchedExperts",
            dispatch_format=BATCHED,
            needs=Needs(
                features=frozenset({"triton"}),
                dtypes=frozenset({"bf16", "fp16"}),
                formats=frozenset({("model", "model")}) | _FP8_PAIRS | _FNUZ_PAIRS | _INT8_PAIRS,
                activation_functions=_TRITON_ACTIVATIONS,
                layer_features=_LAYER_FEATURES,
                padding=True,
                packages=("triton",),
            ),
            deterministic=True,
            numerics=_ROUNDED,
            numerics_of=dict.fromkeys(
                {activations for _, activations in _FP8_PAIRS}, _FP8_PROMOTED
            ),
        ),
        MemberSpec(
            name="flashinfer_cutlass",
            target="moe.experts.flashinfer_cutlass:FlashInferCutlassExperts",
            kind="modular",
            dispatch_format=STANDARD,
            needs=Needs(
                features=frozenset({"cuda", "sm90"}),
                dtypes=frozenset({"bf16"}),
                formats=frozenset({("model", "model"), ("fp8_tensor", "fp8_static")}),
                hidden_multiple=8,  # 16 for fp8, which the probe checks
                shard_multiple=8,
                packages=("flashinfer", "tvm_ffi"),
                probe="moe.experts.flashinfer_probe:built",
            ),
            numerics=_ROUNDED,
            # fp8 sums stay in the short accumulator (2**-9.5 at K = 4096, measured), and the codes
            # for the second product are made from float32.
            numerics_of={
                "fp8_static": Numerics.stated(
                    gemm1="model", expert="model", accumulation=_FP8_SHORT, aligned=_FP8_ALIGNED
                )
            },
        ),
        MemberSpec(
            name="torch_grouped",
            target="moe.experts.torch_grouped:TorchGroupedExperts",
            kind="modular",
            dispatch_format=STANDARD,
            needs=Needs(
                dtypes=frozenset({"bf16"}),
                formats=frozenset({("model", "model")}),
                padding=True,
                activation_functions=ANY,  # calls the layer's own activation function
                layer_features=_LAYER_FEATURES,
                hidden_multiple=8,  # grouped_mm needs rows of a multiple of 16 bytes
                shard_multiple=8,
            ),
            numerics=_ROUNDED,
            deterministic=True,
        ),
        MemberSpec(
            name="torch_scaled_grouped",
            target="moe.experts.torch_grouped:TorchScaledGroupedExperts",
            needs=Needs(
                features=frozenset({"cuda", "sm90"}),
                formats=frozenset({("fp8_channel", "fp8_token")}),
                activation_functions=ANY,  # calls the layer's own activation function
                padding=True,
                hidden_multiple=16,
                shard_multiple=16,
            ),
            numerics=_FP8_PROMOTED,
            deterministic=True,
        ),
        MemberSpec(
            name="torch_loop",
            target="moe.experts.torch_loop:TorchLoopExperts",
            kind="modular",
            dispatch_format=STANDARD,
            # Multiplies dequantized values, and calls the layer's own activation function.
            needs=Needs(
                dtypes=ANY,
                formats=ANY,
                dequantizes=True,
                activation_functions=ANY,
                layer_features=_LAYER_FEATURES,
                padding=True,
                adapters=True,
            ),
            numerics=Numerics.stated(),
            deterministic=True,
        ),
        MemberSpec(
            name="torch_monolithic",
            target="moe.experts.torch_monolithic:TorchMonolithicExperts",
            kind=MONOLITHIC,
            needs=Needs(
                dtypes=ANY,
                formats=ANY,
                dequantizes=True,
                layer_features=frozenset({"expert_bias", "latent"}),
                activation_functions=ANY,
                routers=frozenset({"softmax", "sigmoid"}),
                routing_options=frozenset({"bias", "groups", "scale", "logits_dtype"}),
            ),
            numerics=Numerics.stated(),
            deterministic=True,
        ),
        # Released packages, where they are installed; `auto` never comes this far.
        MemberSpec(
            name="transformers_eager",
            target="moe.experts.transformers_experts:TransformersEager",
            needs=replace(_TRANSFORMERS, probe="moe.released:eager_experts_know_the_sentinel"),
            numerics=replace(_EVERY_STEP, weighted="model", combine="model"),
            deterministic=True,
        ),
        MemberSpec(
            name="transformers_batched_mm",
            target="moe.experts.transformers_experts:TransformersBatchedMM",
            needs=_TRANSFORMERS,
            numerics=_EVERY_STEP,
            deterministic=True,
        ),
        MemberSpec(
            name="transformers_grouped_mm",
            target="moe.experts.transformers_experts:TransformersGroupedMM",
            needs=replace(
                _TRANSFORMERS, dtypes=frozenset({"bf16"}), hidden_multiple=8, shard_multiple=8
            ),
            numerics=_EVERY_STEP,
            deterministic=True,
        ),
        MemberSpec(
            name="torchtitan",
            target="moe.experts.torchtitan_experts:TorchtitanExperts",
            needs=Needs(
                packages=(released.TORCHTITAN_EXPERTS,), hidden_multiple=8, shard_multiple=8
            ),
            numerics=replace(_EVERY_STEP, weighted="model"),
            deterministic=True,
        ),
        # Released packages for chips and in versions that nobody has run here: what they round is
        # not stated.
        MemberSpec(
            name="flashinfer_trtllm",
            target="moe.experts.flashinfer_trtllm:FlashInferTrtllmExperts",
            kind=MONOLITHIC,
            needs=replace(
                _TRTLLM,
                routers=frozenset({"softmax", "sigmoid"}),
                routing_options=frozenset({"bias", "groups", "scale"}),
                packages=(released_kernels.TRTLLM,),
                probe="moe.released_kernels:method_exists",
            ),
        ),
        MemberSpec(
            name="flashinfer_trtllm_routed",
            target="moe.experts.flashinfer_trtllm:FlashInferTrtllmRoutedExperts",
            needs=replace(_TRTLLM, packages=(released_kernels.TRTLLM_ROUTED,)),
        ),
        MemberSpec(
            name="deep_gemm_masked",
            target="moe.experts.deep_gemm_masked:DeepGemmMaskedExperts",
            dispatch_format=BATCHED,
            needs=Needs(
                features=frozenset({"cuda", "sm90", "triton"}),
                formats=frozenset({("fp8_block", "fp8_group")}),
                activation_functions=_TRITON_ACTIVATIONS,
                hidden_multiple=128,
                shard_multiple=128,
                packages=(released_kernels.DEEP_GEMM, "triton"),
            ),
        ),
        MemberSpec(
            name="aiter",
            target="moe.experts.aiter_fused:AiterFusedExperts",
            needs=Needs(
                features=frozenset({"rocm"}),
                dtypes=frozenset({"bf16", "fp16"}),
                activation_functions=frozenset({"silu", "gelu"}),
                hidden_multiple=128,
                shard_multiple=128,
                packages=(released_kernels.AITER,),
            ),
        ),
        MemberSpec(
            name="vllm_triton",
            target="moe.experts.vllm_triton:VllmTritonExperts",
            needs=Needs(
                features=frozenset({"cuda"}),
                dtypes=frozenset({"bf16", "fp16"}),
                # Its int8 groups are truncated toward zero instead of rounded: another format.
                formats=frozenset(
                    {
                        ("model", "model"),
                        ("fp8_tensor", "fp8_static"),
                        ("fp8_tensor", "fp8_dynamic"),
                        ("fp8_channel", "fp8_token"),
                        ("fp8_block", "fp8_group"),
                        ("int8_channel", "int8_token"),
                    }
                ),
                activation_functions=_VLLM_ACTIVATIONS,
                packages=(released_vllm.TRITON,),
                probe="moe.released_vllm:sizes_fit",
            ),
            numerics=_VLLM,
            numerics_of={
                "fp8_static": _VLLM_FP8,
                "fp8_dynamic": _VLLM_FP8,
                # A token's scale is at least 1 / (448 * 512), that is, its amax at least 1 / 512.
                "fp8_token": replace(_VLLM_FP8, amax_floor=2.0**-9),
                "fp8_group": replace(
                    _VLLM_DYNAMIC, accumulation=_FP8_SHORT, promoted=128, aligned=_FP8_ALIGNED
                ),
                "int8_token": _VLLM_DYNAMIC,
            },
            deterministic=True,
        ),
        MemberSpec(
            name="vllm_permute",
            target="moe.experts.vllm_permute:VllmPermuteExperts",
            needs=Needs(
                features=frozenset({"cuda"}),
                activation_functions=_VLLM_ACTIVATIONS,
                hidden_multiple=8,  # moe_permute and grouped_mm move 16 bytes at a time
                shard_multiple=8,
                packages=(released_vllm.PERMUTE,),
            ),
            numerics=replace(_VLLM, expert="model", weighted="f32"),
            deterministic=True,
        ),
    ),
)
