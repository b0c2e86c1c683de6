"""Compute experts by this project's Triton kernels: compiled on a GPU, interpreted on a CPU.

align -> first product -> f(gate) * up -> quantize -> second product -> weighted sum. Rows are
(token, slot) pairs in flat order throughout. A slot of another rank's expert is neither computed
nor read, so its row in a workspace stays uninitialised.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from moe import adapters, intermediates
from moe.experts.base import Experts
from moe.experts.triton_steps import TritonSteps
from moe.kernels.align import align_tokens
from moe.kernels.combine import combine
from moe.kernels.grouped_gemm import grouped_gemm
from moe.kernels.launch import INTERPRETED
from moe.kernels.lora import add_lora
from moe.kernels.tiles import block_rows
from moe.quant.base import dequantize_activations

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.adapters import Adapters
    from moe.formats.quant_tensor import QuantTensor
    from moe.kernels.align import Aligned
    from moe.kernels.arranged import Arranged
    from moe.types import Activations, Routing


class TritonExperts(TritonSteps, Experts):
    """Run the kernels without a device sync: all sizes follow from shapes."""

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        if (zeros := self.zeros_if_idle(x)) is not None:
            return zeros
        w, ids = self.weights, routing.topk_ids
        rows = ids.numel()
        experts = self.layer_spec.num_experts
        planned = block_rows(rows, experts, interpreted=INTERPRETED)
        block_m = planned if self.tile is None else self.tile.block_m
        aligned = align_tokens(ids, self.num_local, block_m)
        gate_up = self._product(x, self.gate_up, aligned, routing, (w.b13, adapters.first))
        activation, h = self.activated(gate_up, ids)
        y = self._product(h, self.down, aligned, routing, (w.b2, adapters.second))
        intermediates.keep("gemm1", gate_up, copy=False)
        intermediates.keep("activation", activation, copy=False)
        intermediates.keep("second", h.codes, copy=False)
        intermediates.keep("second_scale", h.block_scale, copy=False)
        intermediates.keep("gemm2", y, copy=False)
        return combine(y, routing.topk_weights, ids)

    def _product(
        self,
        x: Activations,
        w: QuantTensor | Arranged,
        aligned: Aligned,
        routing: Routing,
        more: tuple[Tensor | None, Callable[[Adapters], tuple[Tensor, Tensor]]],
    ) -> Tensor:
        """Return a product of the experts, [R, O] in the layer's dtype, with adapters' parts.

        more: the bias, and what gives the product's matrices of adapters.
        """
        bias, matrices_of = more
        rows, held = routing.topk_ids.numel(), self.adapters
        product = partial(grouped_gemm, x, w, aligned, rows=rows, tile=self.tile, bias=bias)
        if held is None:
            return product(dtype=self.dtype)
        assert routing.adapters is not None, "a layer with adapters is given them"
        y = product(dtype=torch.float32)
        is_plain = x.format.block is None
        values = x.codes if is_plain else dequantize_activations(x)
        add_lora(y, values, (routing.topk_ids, routing.adapters), matrices_of(held))
        return y.to(self.dtype)
