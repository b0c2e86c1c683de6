"""fp8 e4m3 with 128x128 weight blocks and 1x128 activation groups, as DeepSeek-V3 stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.quant.base import QuantMethod, gate_up_scale_rows, quantize_pair, quantize_rows
from moe.spec import BLOCK
from moe.types import Activations, ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor


class Fp8Block(QuantMethod):
    def quantize_weights(self, w13: Tensor, w2: Tensor) -> ExpertWeights:
        return quantize_pair(w13, w2, "fp8", "block")

    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        del a1_scale
        codes, scale = quantize_rows(x, "fp8", BLOCK)
        return Activations(codes=codes, scale=scale)

    def _shard_scales(
        self, weights: ExpertWeights, columns: range, intermediate: int
    ) -> dict[str, Tensor | None]:
        if len(columns) == intermediate:  # whole: no block is cut, wherever the seam lies
            return {}
        assert weights.w13_scale is not None
        assert weights.w2_scale is not None
        blocks = slice(columns.start // BLOCK, columns.stop // BLOCK)
        return {
            "w13_scale": gate_up_scale_rows(weights.w13_scale, columns, intermediate, BLOCK),
            "w2_scale": weights.w2_scale[:, :, blocks].contiguous(),
        }
