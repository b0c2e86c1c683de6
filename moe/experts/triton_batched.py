"""Compute experts by Triton kernels on batches: a block of rows for each expert, and its count.

first product -> f(gate) * up -> quantize -> second product, each on [e, C, ...] with the rows
beyond an expert's count masked. This is the layout that low-latency all2all backends hand out: its
sizes do not depend on the routing, so that a call can be captured in a graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe import guarded_buffers, intermediates
from moe.experts.base import BatchedExperts
from moe.experts.triton_steps import TritonSteps
from moe.kernels.batched_gemm import batched_gemm

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, Batches


class TritonBatchedExperts(TritonSteps, BatchedExperts):
    """Run the kernels without a device sync: all sizes follow from shapes."""

    def apply(self, batches: Batches) -> Tensor:
        experts, capacity = batches.slots.shape
        if experts * capacity == 0:
            shape = (experts, capacity, self.layer_spec.hidden)
            device = batches.x.codes.device
            return guarded_buffers.empty(shape, dtype=self.dtype, device=device)
        slots, counts = batches.slots, batches.counts
        w, dtype = self.weights, self.dtype
        gate_up = batched_gemm(batches.x, self.gate_up, counts, dtype=dtype, bias=w.b13)
        activation, h = self.activated(gate_up, slots, counts)
        y = batched_gemm(_unflattened(h, experts), self.down, counts, dtype=dtype, bias=w.b2)
        stages = {"gemm1": gate_up.flatten(0, 1), "activation": activation, "second": h.codes}
        stages |= {"gemm2": y.flatten(0, 1)}
        for name, value in stages.items():
            intermediates.keep_batched(name, value, slots)
        has_rows = h.block_scale is not None and h.format.has_row_scales
        keep = intermediates.keep_batched if has_rows else _keep_one
        keep("second_scale", h.block_scale, slots)
        return y


def _unflattened(h: Activations, experts: int) -> Activations:
    """Return rows [e * C, n] with their scales as [e, C, n]."""
    scale = h.scale
    if scale is not None and h.format.has_row_scales:
        scale = scale.view(experts, -1, scale.shape[1])
    return h.replace(codes=h.codes.view(experts, -1, h.codes.shape[1]), scale=scale)


def _keep_one(stage: str, scale: Tensor | None, slots: Tensor) -> None:
    del slots
    intermediates.keep(stage, scale, copy=False)
