"""Compute experts by torch's grouped product between vLLM's moe_permute and moe_unpermute.

moe_permute copies each slot's token, sorted by expert; moe_unpermute sums the weighted rows of a
token in float32. Slots of other ranks' experts get the id of one more expert, which the expert map
sends to -1: they are sorted behind the last group, are not computed and not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moe import guarded_buffers, intermediates
from moe.experts.base import Experts

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights, Routing


class VllmPermuteExperts(Experts):
    """Permute, multiply by group, and unpermute, in bf16, without a device sync."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep transposed views, and the map of local experts."""
        from vllm.model_executor.layers.fused_moe import activation, moe_permute_unpermute

        self._permute: Any = moe_permute_unpermute.moe_permute
        self._unpermute: Any = moe_permute_unpermute.moe_unpermute
        self._activate: Any = activation.apply_moe_activation
        self._function = activation.MoEActivation.from_str(self.layer_spec.activation)
        self.w13 = weights.w13.contiguous().transpose(1, 2)  # grouped_mm takes views
        self.w2 = weights.w2.contiguous().transpose(1, 2)
        self._map = torch.arange(self.num_local + 1, dtype=torch.int32, device=weights.w13.device)
        self._map[-1] = -1

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        if (zeros := self.zeros_if_idle(x)) is not None:
            return zeros
        out = guarded_buffers.empty(x.codes.shape, dtype=self.dtype, device=x.codes.device)
        ids = routing.topk_ids.masked_fill(routing.topk_ids < 0, self.num_local)
        rows, _, offsets, places, _ = self._permute(
            *(x.codes.contiguous(), None, ids, self.num_local + 1, self.num_local, self._map)
        )
        ends = offsets[1:].int()
        gate_up = _grouped_mm(rows, self.w13, ends)
        h = guarded_buffers.empty(
            (len(rows), self.w2.shape[1]), dtype=self.dtype, device=rows.device
        )
        self._activate(self._function, h, gate_up)
        y = _grouped_mm(h, self.w2, ends)
        self._unpermute(out, y, routing.topk_weights.contiguous(), places, offsets)
        order = places.argsort()  # places: of each flat row, where moe_permute put it
        intermediates.keep("gemm1", gate_up, rows=order, copy=False)
        intermediates.keep("activation", h, rows=order, copy=False)
        intermediates.keep("gemm2", y, rows=order, copy=False)
        return out


def _grouped_mm(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Return the [R, O] products. x: [R, I] sorted by expert. w: [e, I, O]. ends: [e] int32."""
    return torch.nn.functional.grouped_mm(x, w, offs=ends)
