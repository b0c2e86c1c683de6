"""Integer weights with a scale per group of columns; activations stay in the layer's dtype.

Four-bit weights pass through the layout of a checkpoint: symmetric ones through GPTQ's, those with
zero points through AWQ's. See `moe.quant.checkpoint_layouts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moe.formats import FORMATS
from moe.quant.checkpoint_layouts import AWQ, GPTQ, CheckpointLayout
from moe.quant.grouped import GroupCodes, quantize_experts
from moe.types import ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor


class _WeightOnly(GroupCodes):
    """Quantize weights only."""

    activations: ClassVar[str] = "model"


class _FromCheckpoint(_WeightOnly):
    """Store the quantized weights as a checkpoint does, and load them from it."""

    layout: ClassVar[CheckpointLayout]

    def quantize_weights(self, w13: Tensor, w2: Tensor) -> ExpertWeights:
        fmt = FORMATS[self.weights]
        stored = [self.layout.store(quantize_experts(w, fmt)) for w in (w13, w2)]
        return ExpertWeights.of(*(self.layout.load(weights, fmt) for weights in stored))


class _Gptq(_FromCheckpoint):
    """Go through GPTQ's layout."""

    layout: ClassVar[CheckpointLayout] = GPTQ


class _Awq(_FromCheckpoint):
    """Go through AWQ's layout."""

    layout: ClassVar[CheckpointLayout] = AWQ


class Int4G32(_Gptq):
    """int4, symmetric, groups of 32."""

    weights: ClassVar[str] = "int4_g32"


class Int4G64(_Gptq):
    """int4, symmetric, groups of 64."""

    weights: ClassVar[str] = "int4_g64"


class Int4G128(_Gptq):
    """int4, symmetric, groups of 128."""

    weights: ClassVar[str] = "int4_g128"


class Int8G32(_WeightOnly):
    """int8, symmetric, groups of 32."""

    weights: ClassVar[str] = "int8_g32"


class Int8G64(_WeightOnly):
    """int8, symmetric, groups of 64."""

    weights: ClassVar[str] = "int8_g64"


class Int8G128(_WeightOnly):
    """int8, symmetric, groups of 128."""

    weights: ClassVar[str] = "int8_g128"


class Int4ZpG32(_Awq):
    """int4, zero points, groups of 32."""

    weights: ClassVar[str] = "int4_zp_g32"


class Int4ZpG64(_Awq):
    """int4, zero points, groups of 64."""

    weights: ClassVar[str] = "int4_zp_g64"


class Int4ZpG128(_Awq):
    """int4, zero points, groups of 128."""

    weights: ClassVar[str] = "int4_zp_g128"


class Int8ZpG32(_WeightOnly):
    """int8, zero points, groups of 32."""

    weights: ClassVar[str] = "int8_zp_g32"


class Int8ZpG64(_WeightOnly):
    """int8, zero points, groups of 64."""

    weights: ClassVar[str] = "int8_zp_g64"


class Int8ZpG128(_WeightOnly):
    """int8, zero points, groups of 128."""

    weights: ClassVar[str] = "int8_zp_g128"


class W4A8(Int4G128):
    """Symmetric int4 weights in groups of 128, fp8 activations with a scale per token."""

    activations: ClassVar[str] = "fp8_token"
