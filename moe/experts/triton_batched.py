"""Compute experts by Triton kernels on batches: a block of rows for each expert, and its count.

first product -> f(gate) * up -> quantize -> second product, each on [e, C, ...] with the rows
beyond an expert's count masked. This is the layout that low-latency all2all backends hand out: its
sizes do not depend on the routing, so that a call can be captured in a graph.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from moe import adapters, guarded_buffers, intermediates
from moe.experts.base import BatchedExperts
from moe.experts.triton_steps import TritonSteps
from moe.formats.quant_tensor import dequantize
from moe.kernels.batched_gemm import batched_gemm, by_row
from moe.kernels.lora import add_lora

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.adapters import Adapters
    from moe.formats.quant_tensor import QuantTensor
    from moe.kernels.arranged import Arranged
    from moe.types import Activations, Batches


class TritonBatchedExperts(TritonSteps, BatchedExperts):
    """Run the kernels without a device sync: all sizes follow from shapes."""

    def apply(self, batches: Batches) -> Tensor:
        experts, capacity = batches.slots.shape
        if experts * capacity == 0:
            shape = (experts, capacity, self.layer_spec.hidden)
            device = batches.x.codes.device
            return guarded_buffers.empty(shape, dtype=self.dtype, device=device)
        slots, counts, w = batches.slots, batches.counts, self.weights
        gate_up = self._product(batches.x, self.gate_up, batches, (w.b13, adapters.first))
        activation, h = self.activated(gate_up, slots, counts)
        y = self._product(_unflattened(h, experts), self.down, batches, (w.b2, adapters.second))
        stages = {"gemm1": gate_up.flatten(0, 1), "activation": activation, "second": h.codes}
        stages |= {"gemm2": y.flatten(0, 1)}
        for name, value in stages.items():
            intermediates.keep_batched(name, value, slots)
        has_rows = h.block_scale is not None and h.format.has_row_scales
        keep = intermediates.keep_batched if has_rows else _keep_one
        keep("second_scale", h.block_scale, slots)
        return y

    def _product(
        self,
        x: QuantTensor,
        w: QuantTensor | Arranged,
        batches: Batches,
        more: tuple[Tensor | None, Callable[[Adapters], tuple[Tensor, Tensor]]],
    ) -> Tensor:
        """Return a product of the experts, [e, C, O] in the layer's dtype, with adapters' parts.

        more: the bias, and what gives the product's matrices of adapters.
        """
        bias, matrices_of = more
        held, counts = self.adapters, batches.counts
        product = partial(batched_gemm, x, w, counts, tile=self.tile, bias=bias)
        if held is None:
            return product(dtype=self.dtype)
        assert batches.adapters is not None, "a layer with adapters is given them"
        y = product(dtype=torch.float32)
        rows = by_row(x)
        values = rows.codes if x.format.block is None else dequantize(rows)
        experts = torch.arange(len(counts), dtype=torch.int32, device=counts.device)[:, None]
        ids = torch.where(batches.slots >= 0, experts, -1).view(-1, 1)
        add_lora(y.flatten(0, 1), values, (ids, batches.adapters.view(-1)), matrices_of(held))
        return y.to(self.dtype)


def _unflattened(h: Activations, experts: int) -> Activations:
    """Return rows [e * C, n] with their scales as [e, C, n]."""
    scale = h.scale
    if scale is not None and h.format.has_row_scales:
        scale = scale.view(experts, -1, scale.shape[1])
    return h.replace(codes=h.codes.view(experts, -1, h.codes.shape[1]), scale=scale)


def _keep_one(stage: str, scale: Tensor | None, slots: Tensor) -> None:
    del slots
    intermediates.keep(stage, scale, copy=False)
