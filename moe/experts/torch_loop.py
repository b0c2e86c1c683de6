"""One expert after another in float32 torch: takes any format, so it is there from day one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe import memory
from moe.experts.base import Experts
from moe.quant.base import dequantize_activations, dequantize_weight

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights, Routing


class TorchLoopExperts(Experts):
    """Dequantizes and multiplies in float32; rounds once, at the end."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        self.weights = weights

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        values = dequantize_activations(x)
        picked = [(routing.topk_ids == e).nonzero(as_tuple=True) for e in range(self.num_local)]
        h = self._intermediates(values, [rows for rows, _ in picked])
        total = torch.zeros(values.shape, dtype=torch.float32, device=values.device)
        for e, (rows, slots) in enumerate(picked):
            y = h[e] @ self._matrix(self.weights.w2, self.weights.w2_scale, e).T
            total.index_add_(0, rows, routing.topk_weights[rows, slots, None] * y)
        out = memory.empty(total.shape, dtype=self.dtype, device=total.device)
        return out.copy_(total)

    def _intermediates(self, values: Tensor, picked: list[Tensor]) -> list[Tensor]:
        """silu(gate) * up of each expert's rows, quantized together: one scale may span all."""
        parts = []
        for e, rows in enumerate(picked):
            w13 = self._matrix(self.weights.w13, self.weights.w13_scale, e)
            gate, up = (values[rows] @ w13.T).chunk(2, dim=1)
            parts.append(torch.nn.functional.silu(gate) * up)
        if not parts:
            return parts
        joined = self.quant.quantize_intermediate(torch.cat(parts), self.weights.a2_scale)
        return list(torch.split(dequantize_activations(joined), [len(rows) for rows in picked]))

    @staticmethod
    def _matrix(codes: Tensor, scale: Tensor | None, e: int) -> Tensor:
        """Expert e's float32 values; one at a time, so that memory holds one copy."""
        one = None if scale is None else scale[e : e + 1]
        return dequantize_weight(codes[e : e + 1], one)[0]
