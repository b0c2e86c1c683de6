"""Compute experts by this project's Triton kernels: compiled on a GPU, interpreted on a CPU.

align -> first product -> f(gate) * up -> quantize -> second product -> weighted sum. Rows are
(token, slot) pairs in flat order throughout. A slot of another rank's expert is neither computed
nor read, so its row in a workspace stays uninitialised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe import guarded_buffers, intermediates
from moe.experts.base import Experts
from moe.experts.triton_steps import TritonSteps
from moe.kernels.align import align_tokens
from moe.kernels.combine import combine
from moe.kernels.grouped_gemm import grouped_gemm
from moe.kernels.launch import INTERPRETED
from moe.kernels.tiles import block_rows

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, Routing


class TritonExperts(TritonSteps, Experts):
    """Run the kernels without a device sync: all sizes follow from shapes."""

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        tokens, top_k = routing.topk_ids.shape
        rows = tokens * top_k
        if rows == 0 or self.num_local == 0:
            shape = (tokens, self.layer_spec.hidden)
            return guarded_buffers.empty(shape, dtype=self.dtype, device=x.codes.device).zero_()
        w, ids = self.weights, routing.topk_ids
        block_m = block_rows(rows, self.layer_spec.num_experts, interpreted=INTERPRETED)
        aligned = align_tokens(ids, self.num_local, block_m)
        gate_up = grouped_gemm(x, self.gate_up, aligned, rows=rows, dtype=self.dtype, bias=w.b13)
        activation, h = self.activated(gate_up, ids)
        y = grouped_gemm(h, self.down, aligned, rows=rows, dtype=self.dtype, bias=w.b2)
        intermediates.keep("gemm1", gate_up, copy=False)
        intermediates.keep("activation", activation, copy=False)
        intermediates.keep("second", h.codes, copy=False)
        intermediates.keep("second_scale", h.block_scale, copy=False)
        intermediates.keep("gemm2", y, copy=False)
        return combine(y, routing.topk_weights, ids)
