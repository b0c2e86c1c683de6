"""int8 with one weight scale per output channel and one activation scale per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.formats import FORMATS
from moe.quant.base import QuantMethod, quantize_pair, quantize_rows
from moe.types import Activations, ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor


class Int8Channel(QuantMethod):
    """Compute all scales from the values."""

    def quantize_weights(self, w13: Tensor, w2: Tensor) -> ExpertWeights:
        return quantize_pair(w13, w2, FORMATS["int8_channel"])

    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        del a1_scale
        codes, scale = quantize_rows(x, "int8", None)
        return Activations(codes=codes, scale=scale, format=FORMATS["int8_token"])
