"""Define the rows of vLLM's experts. Torch-free."""

from __future__ import annotations

from dataclasses import replace

from moe import alignments, released_vllm
from moe.formats.int4.spec import ROWS as INT4
from moe.formats.int8.spec import WEIGHT_ONLY as INT8
from moe.numerics import FLOAT32_LOSS
from moe.spec import MemberSpec, Needs, Numerics
from moe.stated_numerics import FP8_ALIGNED, FP8_SHORT

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
_VLLM_FP8 = replace(_VLLM, accumulation=FP8_SHORT, aligned=FP8_ALIGNED)
# Marlin's kernels round a dequantized weight, the output, and its product with the router weight.
_MARLIN = replace(
    _VLLM, dequantized="model", expert="model", weight_dtype="model", accumulation=FLOAT32_LOSS
)
_MARLIN_WEIGHTS = frozenset(
    {*(row.name for row in INT4), *(row.name for row in INT8 if not row.zero_point), "mxfp4"}
)
ROWS = (
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
            moe_tp=True,
            tactics="moe.tuned_tiles:vllm_configurations",
            packages=(released_vllm.TRITON,),
            probe="moe.released_vllm:sizes_fit",
        ),
        numerics=_VLLM,
        launches=frozenset({"fused_moe_kernel"}),
        numerics_of={
            "fp8_static": _VLLM_FP8,
            "fp8_dynamic": _VLLM_FP8,
            # A token's scale is at least 1 / (448 * 512), that is, its amax at least 1 / 512.
            "fp8_token": replace(_VLLM_FP8, amax_floor=2.0**-9),
            "fp8_group": replace(
                _VLLM_DYNAMIC, accumulation=FP8_SHORT, promoted=128, aligned=FP8_ALIGNED
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
            moe_tp=True,
            hidden_multiple=8,  # moe_permute and grouped_mm move 16 bytes at a time
            shard_multiple=8,
            packages=(released_vllm.PERMUTE,),
        ),
        numerics=replace(_VLLM, expert="model", weighted="f32"),
        deterministic=True,
    ),
    MemberSpec(
        name="marlin",
        target="moe.experts.marlin:MarlinExperts",
        needs=Needs(
            features=frozenset({"cuda"}),
            dtypes=frozenset({"bf16", "fp16"}),
            formats=frozenset((weights, "model") for weights in _MARLIN_WEIGHTS),
            dequantizes=True,
            activation_functions=_VLLM_ACTIVATIONS,
            moe_tp=True,
            hidden_multiple=128,
            shard_multiple=64,
            alignments=alignments.MARLIN,
            packages=(released_vllm.MARLIN,),
            probe="moe.released_vllm:marlin_fits",
        ),
        numerics=_MARLIN,
        # Not `deterministic`: it divides the sums of its last blocks among programs, and which rows
        # are in a block is decided by atomic additions from 1,024 slots or 65 local ids on.
    ),
)
