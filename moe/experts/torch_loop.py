"""Compute experts one after another in float32 torch; supports every format and activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe import adapters, guarded_buffers, intermediates
from moe.adapters import add_adapted
from moe.experts.base import Experts
from moe.quant.base import dequantize_activations, dequantize_weight

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights, Routing


class TorchLoopExperts(Experts):
    """Dequantize, multiply in float32, and round once, at the end."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep the weights unchanged, in their format."""
        self.weights = weights

    @property
    def expert_tensors(self) -> dict[str, Tensor]:
        return self.weights.by_expert

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        values = dequantize_activations(x)
        total = torch.zeros(values.shape, dtype=torch.float32, device=values.device)
        picked = [(routing.topk_ids == e).nonzero(as_tuple=True) for e in range(self.num_local)]
        if picked:
            flat = torch.cat([rows * routing.topk_ids.shape[1] + slots for rows, slots in picked])
            chosen = _chosen(routing, flat) if self.adapters is not None else None
            h = self._intermediates(values, [rows for rows, _ in picked], flat, chosen)
            parts = [
                added(h[e] @ dequantize_weight(self.weights.down.expert(e)).T, self.weights.b2, e)
                for e in range(self.num_local)
            ]
            y = torch.cat(parts)
            if self.adapters is not None and chosen is not None:
                add_adapted(y, torch.cat(h), chosen, adapters.second(self.adapters))
            intermediates.keep("gemm2", y, rows=flat, copy=False)
            split = torch.split(y, [len(part) for part in parts])
            for (rows, slots), part in zip(picked, split, strict=True):
                total.index_add_(0, rows, routing.topk_weights[rows, slots, None] * part)
        out = guarded_buffers.empty(total.shape, dtype=self.dtype, device=total.device)
        return out.copy_(total)

    def _intermediates(
        self,
        values: Tensor,
        picked: list[Tensor],
        flat: Tensor,
        chosen: tuple[Tensor, Tensor] | None = None,
    ) -> list[Tensor]:
        """Return quantized and dequantized f(gate) * up, [rows of the expert, n] for each expert.

        All rows are quantized in one call, since a scale may be shared by rows of many experts.
        values: [G, K] float32. picked: each expert's rows of `values`. flat: [R] rows, all experts.
        chosen: expert and adapter of each of the R rows, or None without adapters.
        """
        parts = []
        for e, rows in enumerate(picked):
            w13 = dequantize_weight(self.weights.gate_up.expert(e))  # one expert's copy at a time
            parts.append(added(values[rows] @ w13.T, self.weights.b13, e))
        gate_up = torch.cat(parts)
        if self.adapters is not None and chosen is not None:
            add_adapted(gate_up, values[torch.cat(picked)], chosen, adapters.first(self.adapters))
        h = self.activate(gate_up)
        joined = self.quant.quantize_intermediate(h, self.weights.a2_scale)
        intermediates.keep("gemm1", gate_up, rows=flat, copy=False)
        intermediates.keep("activation", h, rows=flat, copy=False)
        intermediates.keep("second", joined.codes, rows=flat)
        intermediates.keep("second_scale", joined.block_scale, rows=flat)
        return list(torch.split(dequantize_activations(joined), [len(rows) for rows in picked]))


def _chosen(routing: Routing, flat: Tensor) -> tuple[Tensor, Tensor]:
    """Return the local expert and the adapter of flat (token, slot) rows [R]."""
    assert routing.adapters is not None, "a layer with adapters is given them"
    return routing.topk_ids.reshape(-1)[flat], routing.adapters[flat // routing.topk_ids.shape[1]]


def added(product: Tensor, bias: Tensor | None, e: int) -> Tensor:
    """Return the product [R, O] float32 of local expert e plus its bias. bias: [e, O], or None."""
    return product if bias is None else product + bias[e].float()
