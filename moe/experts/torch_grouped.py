"""Compute experts by torch's grouped_mm (bf16): rows sorted by expert, one call per product.

grouped_mm needs rows of a multiple of 16 bytes, and leaves the rows beyond the last group
unwritten: rows without an expert on this rank are sorted there and are not read again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe import guarded_buffers, intermediates
from moe.experts.base import Experts

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights, Routing


class TorchGroupedExperts(Experts):
    """Compute all local experts with two grouped products, in bf16, without a device sync."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep transposed views."""
        # [e, out, in] -> [e, in, out] as a view: grouped_mm accepts transposed strides.
        self.w13 = weights.w13.contiguous().transpose(1, 2)
        self.w2 = weights.w2.contiguous().transpose(1, 2)

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        tokens, top_k = routing.topk_ids.shape
        if tokens == 0 or self.num_local == 0:
            shape = (tokens, self.layer_spec.hidden)
            return guarded_buffers.empty(shape, dtype=self.dtype, device=x.codes.device).zero_()
        order, ends = _by_expert(routing.topk_ids, self.num_local)
        gate_up = _grouped_mm(x.codes[order // top_k], self.w13, ends)
        h = self.activate(gate_up).to(self.dtype)
        y = guarded_buffers.empty(
            (tokens * top_k, self.layer_spec.hidden), dtype=self.dtype, device=h.device
        )
        y[order] = _grouped_mm(h, self.w2, ends)
        intermediates.keep("gemm1", gate_up, rows=order, copy=False)
        intermediates.keep("activation", h, rows=order, copy=False)
        intermediates.keep("gemm2", y, copy=False)
        return _weighted_sum(y.view(tokens, top_k, -1), routing)


def _grouped_mm(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Return the [R, out] products. x: [R, in] sorted by expert. w: [e, in, out]. ends: [e]."""
    if hasattr(torch.nn.functional, "grouped_mm"):
        return torch.nn.functional.grouped_mm(x, w, offs=ends)
    return torch._grouped_mm(x, w, offs=ends)


def _by_expert(topk_ids: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Return order [R] int64, flat (token, slot) rows by expert with -1 last, and ends [e] int32.

    ends: the exclusive end of each expert's rows in that order.
    """
    ids = topk_ids.reshape(-1)
    ordered, order = torch.where(ids < 0, experts, ids).sort(stable=True)
    local_ids = torch.arange(experts, dtype=ids.dtype, device=ids.device)
    return order, torch.searchsorted(ordered, local_ids, right=True).int()


def _weighted_sum(y: Tensor, routing: Routing) -> Tensor:
    """Return the weighted sum over k, [T, K], in float32. y: [T, k, K]; -1 slots are not read."""
    used = (routing.topk_ids >= 0)[:, :, None]
    weighted = y.float() * routing.topk_weights[:, :, None]
    return torch.where(used, weighted, 0.0).sum(dim=1).to(y.dtype)
