"""fp8 e4m3 with 128x128 weight blocks and 1x128 activation groups, as DeepSeek-V3 stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.formats import FORMATS
from moe.quant.base import QuantMethod, quantize_pair, quantize_rows
from moe.types import Activations, ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor


class Fp8Block(QuantMethod):
    """Compute all scales from the values; activation scales per token and 128 columns."""

    def quantize_weights(self, w13: Tensor, w2: Tensor) -> ExpertWeights:
        return quantize_pair(w13, w2, FORMATS["fp8_block"])

    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        del a1_scale
        codes, scale = quantize_rows(x, "fp8", 128)
        return Activations(codes=codes, scale=scale, format=FORMATS["fp8_group"])
