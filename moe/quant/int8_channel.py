"""int8 with one weight scale per output channel and one activation scale per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.quant.base import QuantMethod, gate_up_scale_rows, quantize_pair, quantize_rows
from moe.types import Activations, ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor


class Int8Channel(QuantMethod):
    def quantize_weights(self, w13: Tensor, w2: Tensor) -> ExpertWeights:
        return quantize_pair(w13, w2, "int8", "channel")

    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        del a1_scale
        codes, scale = quantize_rows(x, "int8", None)
        return Activations(codes=codes, scale=scale)

    def _shard_scales(
        self, weights: ExpertWeights, columns: range, intermediate: int
    ) -> dict[str, Tensor | None]:
        assert weights.w13_scale is not None
        return {"w13_scale": gate_up_scale_rows(weights.w13_scale, columns, intermediate)}
