"""Define the rows of packages of kernels, of one or two members each. Torch-free."""

from __future__ import annotations

from moe import alignments, released_kernels, released_vllm
from moe.spec import ANY, BATCHED, MemberSpec, Needs
from moe.stated_numerics import ROUNDED, TRITON_ACTIVATIONS

ROWS = (
    MemberSpec(
        name="deep_gemm_masked",
        target="moe.experts.deep_gemm_masked:DeepGemmMaskedExperts",
        dispatch_format=BATCHED,
        needs=Needs(
            features=frozenset({"cuda", "sm90", "triton"}),
            formats=frozenset({("fp8_block", "fp8_group")}),
            activation_functions=TRITON_ACTIVATIONS,
            moe_tp=True,
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
            moe_tp=True,
            hidden_multiple=128,
            shard_multiple=128,
            packages=(released_kernels.AITER,),
        ),
    ),
    MemberSpec(
        name="triton_kernels",
        target="moe.experts.triton_kernels_experts:TritonKernelsExperts",
        needs=Needs(
            features=frozenset({"cuda", "sm90", "triton"}),
            formats=frozenset({("model", "model"), ("mxfp4", "model")}),
            dequantizes=True,
            activation_functions=ANY,  # calls the layer's own activation function
            layer_features=frozenset({"fused_shared", "zero_experts", "expert_bias", "latent"}),
            padding=True,
            moe_tp=True,
            hidden_multiple=32,
            alignments=alignments.TRITON_KERNELS,
            packages=(released_vllm.TRITON_KERNELS, "triton"),
            probe="moe.released_vllm:blocks_hold_scales",
        ),
        numerics=ROUNDED,
        deterministic=True,
    ),
)
