"""Compute experts by Triton kernels on batches: a block of rows for each expert, and its count.

first product -> f(gate) * up -> quantize -> second product, each on [e, C, ...] with the rows
beyond an expert's count masked. This is the layout that low-latency all2all backends hand out: its
sizes do not depend on the routing, so that a call can be captured in a graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe import guarded_buffers, intermediates
from moe.experts.base import BatchedExperts, contiguous_weights
from moe.formats import FORMATS
from moe.kernels.activation import activate_batched
from moe.kernels.batched_gemm import batched_gemm
from moe.kernels.quantize import quantize_rows, quantize_tensor, tensor_scale
from moe.kernels.scales import code_kind_of
from moe.types import Activations

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.types import Batches, ExpertWeights


class TritonBatchedExperts(BatchedExperts):
    """Run the kernels without a device sync: all sizes follow from shapes."""

    @property
    def format(self) -> Format:
        """Return the number format of the activations."""
        return FORMATS[self.layer_spec.scheme.activations]

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep contiguous weights. Raises MoEError if a static scheme has no `a2_scale`."""
        self.weights = contiguous_weights(weights, self.format)

    def apply(self, batches: Batches) -> Tensor:
        experts, capacity, hidden = batches.x.codes.shape
        if experts * capacity == 0:
            device = batches.x.codes.device
            return guarded_buffers.empty(
                (experts, capacity, hidden), dtype=self.dtype, device=device
            )
        slots, counts = batches.slots, batches.counts
        w, dtype = self.weights, self.dtype
        gate_up = batched_gemm(batches.x, w.gate_up, counts, dtype=dtype, bias=w.b13)
        batched = activate_batched(gate_up, counts, activation=self.layer_spec.activation)
        activation = batched.flatten(0, 1)
        h = self._quantize(activation, slots)
        y = batched_gemm(_unflattened(h, experts), w.down, counts, dtype=dtype, bias=w.b2)
        stages = {"gemm1": gate_up.flatten(0, 1), "activation": activation, "second": h.codes}
        stages |= {"gemm2": y.flatten(0, 1)}
        for name, value in stages.items():
            intermediates.keep_batched(name, value, slots)
        has_rows = h.block_scale is not None and h.format.has_row_scales
        keep = intermediates.keep_batched if has_rows else _keep_one
        keep("second_scale", h.block_scale, slots)
        return y

    def _quantize(self, h: Tensor, slots: Tensor) -> Activations:
        """Return what the method's `quantize_intermediate` does, bit for bit, from kernels.

        h: [e * C, n]. slots: [e, C], -1 for rows that are not in use; a dynamic scale over all rows
        ignores them.
        """
        fmt = self.format
        if fmt.block is None:
            return Activations(codes=h)
        kind = code_kind_of(fmt)
        if fmt.has_one_scale:
            calibrated = self.weights.a2_scale if fmt.static else None
            scale = calibrated if calibrated is not None else tensor_scale(h, slots, kind)
            codes = quantize_tensor(h, scale, kind)
        else:
            codes, scale = quantize_rows(h, kind, fmt.block[1])
        return Activations(codes=codes, scale=scale, format=fmt)


def _unflattened(h: Activations, experts: int) -> Activations:
    """Return rows [e * C, n] with their scales as [e, C, n]."""
    scale = h.scale
    if scale is not None and h.format.has_row_scales:
        scale = scale.view(experts, -1, scale.shape[1])
    return h.replace(codes=h.codes.view(experts, -1, h.codes.shape[1]), scale=scale)


def _keep_one(stage: str, scale: Tensor | None, slots: Tensor) -> None:
    del slots
    intermediates.keep(stage, scale, copy=False)
