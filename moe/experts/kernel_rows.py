"""Define the rows of packages of kernels, of one or two members each. Torch-free."""

from __future__ import annotations

from moe import released_kernels
from moe.spec import BATCHED, MemberSpec, Needs
from moe.stated_numerics import TRITON_ACTIVATIONS

ROWS = (
    MemberSpec(
        name="deep_gemm_masked",
        target="moe.experts.deep_gemm_masked:DeepGemmMaskedExperts",
        dispatch_format=BATCHED,
        needs=Needs(
            features=frozenset({"cuda", "sm90", "triton"}),
            formats=frozenset({("fp8_block", "fp8_group")}),
            activation_functions=TRITON_ACTIVATIONS,
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
)
