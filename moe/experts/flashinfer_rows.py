"""Define the rows of FlashInfer's experts. Torch-free."""

from __future__ import annotations

from dataclasses import replace

from moe import released_kernels
from moe.spec import MONOLITHIC, STANDARD, MemberSpec, Needs, Numerics
from moe.stated_numerics import FP8_ALIGNED, FP8_SHORT, ROUNDED

CUTLASS = MemberSpec(
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
    numerics=ROUNDED,
    # fp8 sums stay in the short accumulator (2**-9.5 at K = 4096, measured), and the codes
    # for the second product are made from float32.
    numerics_of={
        "fp8_static": Numerics.stated(
            gemm1="model", expert="model", accumulation=FP8_SHORT, aligned=FP8_ALIGNED
        )
    },
)
_TRTLLM = Needs(
    features=frozenset({"cuda", "sm100"}),
    formats=frozenset({("model", "model"), ("fp8_block", "fp8_group")}),
    hidden_multiple=128,
    shard_multiple=128,
)
# Nobody has run them here: what they round is not stated.
TRTLLM = (
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
)
