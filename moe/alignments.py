"""Known multiples of sizes that kernels of released backends need, by format and chip. Torch-free.

A row of `moe.experts` names its own in `Needs.alignments`; what is not listed needs none. Sources:
the kernels' own checks and vLLM's `maybe_roundup_sizes` (0.33). Where a smaller multiple works but
is slower, as 128 beside 256 on gfx950, the faster one is listed.
"""

from __future__ import annotations

from moe.roundup import Alignment

_MODEL, _MXFP4, _MXFP8 = frozenset({"model"}), frozenset({"mxfp4"}), frozenset({"mxfp8"})
_ROCM = frozenset({"rocm"})

FLASHINFER_TRTLLM = (
    Alignment(weights=_MODEL, shard=128),
    Alignment(weights=_MXFP4, hidden=256, shard=128),
    Alignment(weights=_MXFP8, hidden=256, shard=128),
)
FLASHINFER_CUTLASS = (
    Alignment(weights=frozenset({"fp8_tensor"}), hidden=16, shard=16),
    # Scales lie in tiles of 128 rows.
    Alignment(weights=_MXFP4 | _MXFP8 | frozenset({"nvfp4"}), hidden=128, shard=128),
)
DEEP_GEMM = (Alignment(weights=_MXFP4, hidden=128, shard=128),)
_BY_128 = frozenset({"int4_g128", "int4_zp_g128", "int8_g128", "int8_zp_g128"})
MARLIN = (
    Alignment(weights=_MXFP4, hidden=256, shard=128),
    Alignment(weights=_BY_128, shard=128),
)
AITER = (
    Alignment(weights=_MODEL, features=_ROCM, shard=64),
    Alignment(weights=_MXFP4, features=_ROCM, hidden=256, shard=256),
)
TRITON_KERNELS = (
    Alignment(weights=_MXFP4, shard=64),
    Alignment(weights=_MXFP4, features=_ROCM, hidden=256, shard=256),
)
# Quantizes and dequantizes in the layer's dtype: whole blocks only.
EMULATION = (Alignment(weights=_MXFP4, hidden=32, shard=32),)
