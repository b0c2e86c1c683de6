"""OCP's microscaling formats: a power of two per 32 columns, for weights and activations."""

from __future__ import annotations

from typing import ClassVar

from moe.quant.grouped import GroupCodes


class Mxfp8(GroupCodes):
    """fp8 e4m3 codes on both sides."""

    weights: ClassVar[str] = "mxfp8"
    activations: ClassVar[str] = "mxfp8"


class Mxfp4(GroupCodes):
    """fp4 e2m1 codes on both sides, as Quark's checkpoints of MI350."""

    weights: ClassVar[str] = "mxfp4"
    activations: ClassVar[str] = "mxfp4"


class Mxfp4Mxfp8(GroupCodes):
    """fp4 e2m1 weights, fp8 e4m3 activations."""

    weights: ClassVar[str] = "mxfp4"
    activations: ClassVar[str] = "mxfp8"


class Mxfp4WeightOnly(GroupCodes):
    """fp4 e2m1 weights, activations in the layer's dtype, as gpt-oss on most chips."""

    weights: ClassVar[str] = "mxfp4"
    activations: ClassVar[str] = "model"
