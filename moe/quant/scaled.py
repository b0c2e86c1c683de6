"""Quantize to codes with float32 scales: the base class of most methods.

A member names its weight and its activation format; the granularity of each, one scale per matrix,
row, block or group, comes from the format alone, so every pair of formats is a method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.kernels.quantize_weights import scale_of
from moe.kernels.scales import code_kind_of
from moe.quant.base import QuantMethod, quantize_pair, quantize_rows, quantize_tensor
from moe.types import Activations, ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format


class ScaledCodes(QuantMethod):
    """Compute weight scales from the values, and activation scales unless these are static.

    A static scale comes with the weights; larger values saturate. A member whose activations share
    one dynamic scale sets `input_scale_is_local = False`.
    """

    weights: ClassVar[str]  # a key of FORMATS
    activations: ClassVar[str]  # a key of FORMATS

    def quantize_weights(self, w13: Tensor, w2: Tensor) -> ExpertWeights:
        return quantize_pair(w13, w2, FORMATS[self.weights])

    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        """Return quantized rows. Raises MoEError without the scale of a static format."""
        fmt = FORMATS[self.activations]
        kind = code_kind_of(fmt)
        if not fmt.has_one_scale:
            assert fmt.block is not None
            codes, scale = quantize_rows(x, kind, fmt.block[1])
        else:
            scale = given_scale(a1_scale, fmt) if fmt.static else _dynamic(x, fmt)
            codes = quantize_tensor(x, scale, kind)
        return Activations(codes=codes, scale=scale, format=fmt)


def given_scale(scale: Tensor | None, fmt: Format) -> Tensor:
    """Return the calibrated scale. Raises MoEError if there is none, or not one number."""
    way_out = "pass a1_scale and a2_scale, each a float32 tensor of one element"
    if scale is None:
        raise MoEError(f"{fmt.name} needs calibrated activation scales, and got None: {way_out}")
    if scale.numel() != 1:
        shape = list(scale.shape)
        raise MoEError(f"{fmt.name} has one scale for all tokens, and got {shape}: {way_out}")
    return scale


def _dynamic(x: Tensor, fmt: Format) -> Tensor:
    """Return the scale [] float32 of all rows of x [T, K]."""
    return scale_of(x.abs().amax() if x.numel() else x.new_zeros(()), fmt)
