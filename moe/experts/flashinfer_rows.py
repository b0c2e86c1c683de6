"""Define the rows of FlashInfer's experts. Torch-free."""

from __future__ import annotations

from dataclasses import replace

from moe import alignments, released_kernels
from moe.spec import MONOLITHIC, STANDARD, FormatsOn, MemberSpec, Needs, Numerics
from moe.stated_numerics import FP8_ALIGNED, FP8_SHORT, ROUNDED

_BLACKWELL = frozenset({("mxfp4", "mxfp8"), ("mxfp8", "mxfp8"), ("nvfp4", "nvfp4_static")})
CUTLASS = MemberSpec(
    name="flashinfer_cutlass",
    target="moe.experts.flashinfer_cutlass:FlashInferCutlassExperts",
    kind="modular",
    dispatch_format=STANDARD,
    needs=Needs(
        features=frozenset({"cuda", "fp8_mma"}),
        dtypes=frozenset({"bf16"}),
        formats=frozenset({("model", "model"), ("fp8_tensor", "fp8_static")}),
        # Not fp8_block: that kernel quantizes its bf16 input, and here codes are sent. Not w4a8:
        # its activations have one scale for all tokens, and ours one for each.
        formats_on=(
            FormatsOn(features=frozenset({"sm90"}), formats=frozenset({("mxfp4", "model")})),
            FormatsOn(features=frozenset({"sm100"}), formats=_BLACKWELL),
        ),
        moe_tp=True,
        hidden_multiple=8,
        shard_multiple=8,
        alignments=alignments.FLASHINFER_CUTLASS,
        packages=("flashinfer", "tvm_ffi"),
        probe="moe.experts.flashinfer_probe:built",
    ),
    numerics=ROUNDED,
    # fp8 sums stay in the short accumulator (2**-9.5 at K = 4096, measured), and the codes
    # for the second product are made from float32. Nobody has run the others here.
    numerics_of={
        "fp8_static": Numerics.stated(
            gemm1="model", expert="model", accumulation=FP8_SHORT, aligned=FP8_ALIGNED
        ),
        "mxfp8": Numerics(),
        "nvfp4_static": Numerics(),
    },
)
_TRTLLM = Needs(
    features=frozenset({"cuda", "sm100"}),
    formats=frozenset(
        {
            *(("model", "model"), ("fp8_block", "fp8_group"), ("mxfp4", "model")),
            *(("mxfp4", "mxfp8"), ("nvfp4", "nvfp4_static")),
        }
    ),
    moe_tp=True,
    hidden_multiple=128,
    shard_multiple=128,
    alignments=alignments.FLASHINFER_TRTLLM,
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
