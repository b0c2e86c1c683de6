"""List the experts backends, in order of preference: one row and one file per backend.

The project's own rows are here; those of a released package are in a module of their own. A row
declares what the backend supports (`needs`) and where it rounds (`numerics`).
"""

from __future__ import annotations

from moe.experts import flashinfer_rows, framework_rows, fused_moe_rows, kernel_rows, vllm_rows
from moe.formats.int4.spec import ROWS as INT4
from moe.formats.int8.spec import WEIGHT_ONLY as INT8
from moe.registry import Registry
from moe.spec import ANY, BATCHED, MONOLITHIC, STANDARD, MemberSpec, Needs, Numerics
from moe.stated_numerics import FP8_PROMOTED, ROUNDED, TRITON_ACTIVATIONS

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
_TRITON_PAIRS = (
    frozenset({("model", "model")}) | _FP8_PAIRS | _FNUZ_PAIRS | _INT8_PAIRS | _DECODED_PAIRS
)
# What a backend need not know of: it gets local ids, -1 for all others, and the size it works on.
_LAYER_FEATURES = frozenset({"fused_shared", "zero_experts", "expert_bias", "latent"})

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
                formats=_TRITON_PAIRS,
                activation_functions=TRITON_ACTIVATIONS,
                layer_features=_LAYER_FEATURES,
                call_modes=frozenset({"graph", "two_batches"}),
                padding=True,
                eplb=True,
                moe_tp=True,
                adapters=True,
                tactics="moe.kernels.tactics:names",
                packages=("triton",),
            ),
            deterministic=True,
            numerics=ROUNDED,
            numerics_of=dict.fromkeys({activations for _, activations in _FP8_PAIRS}, FP8_PROMOTED),
            launches=frozenset({"_count", "_place", "_grouped_gemm", "_combine"}),
        ),
        MemberSpec(
            name="triton_batched",
            target="moe.experts.triton_batched:TritonBatchedExperts",
            dispatch_format=BATCHED,
            needs=Needs(
                features=frozenset({"triton"}),
                dtypes=frozenset({"bf16", "fp16"}),
                formats=_TRITON_PAIRS,
                activation_functions=TRITON_ACTIVATIONS,
                layer_features=_LAYER_FEATURES,
                call_modes=frozenset({"graph", "two_batches"}),
                padding=True,
                adapters=True,
                eplb=True,
                moe_tp=True,
                tactics="moe.kernels.tactics:names",
                packages=("triton",),
            ),
            deterministic=True,
            numerics=ROUNDED,
            numerics_of=dict.fromkeys({activations for _, activations in _FP8_PAIRS}, FP8_PROMOTED),
            launches=frozenset({"_batched_gemm"}),
        ),
        flashinfer_rows.CUTLASS,
        MemberSpec(
            name="torch_grouped",
            target="moe.experts.torch_grouped:TorchGroupedExperts",
            kind="modular",
            dispatch_format=STANDARD,
            needs=Needs(
                dtypes=frozenset({"bf16"}),
                formats=frozenset({("model", "model")}),
                call_modes=frozenset({"compile", "graph", "two_batches"}),
                padding=True,
                eplb=True,
                moe_tp=True,
                activation_functions=ANY,  # calls the layer's own activation function
                layer_features=_LAYER_FEATURES,
                hidden_multiple=8,  # grouped_mm needs rows of a multiple of 16 bytes
                shard_multiple=8,
            ),
            numerics=ROUNDED,
            deterministic=True,
        ),
        MemberSpec(
            name="torch_scaled_grouped",
            target="moe.experts.torch_grouped:TorchScaledGroupedExperts",
            needs=Needs(
                features=frozenset({"cuda", "sm90"}),
                formats=frozenset({("fp8_channel", "fp8_token")}),
                activation_functions=ANY,  # calls the layer's own activation function
                call_modes=frozenset({"graph", "two_batches"}),
                padding=True,
                moe_tp=True,
                hidden_multiple=16,
                shard_multiple=16,
            ),
            numerics=FP8_PROMOTED,
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
                call_modes=frozenset({"two_batches"}),
                padding=True,
                eplb=True,
                moe_tp=True,
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
                call_modes=frozenset({"two_batches"}),
                routing_options=frozenset({"bias", "groups", "scale", "logits_dtype"}),
                moe_tp=True,
            ),
            numerics=Numerics.stated(),
            deterministic=True,
        ),
        # Released packages, where they are installed; `auto` never comes this far.
        *framework_rows.ROWS,
        *flashinfer_rows.TRTLLM,
        *kernel_rows.ROWS,
        *vllm_rows.ROWS,
        *fused_moe_rows.ROWS,
    ),
)
