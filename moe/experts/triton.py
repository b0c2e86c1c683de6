"""Experts from this project's Triton kernels: compiled on a GPU, interpreted on the CPU.

align -> first product -> f(gate) * up -> quantize -> second product -> weighted sum. Rows are
(token, slot) pairs in flat order throughout; a slot of another rank's expert is never computed
and never read, so its row in a workspace stays as the allocator left it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe import guarded_buffers, intermediates
from moe.errors import MoEError
from moe.experts.base import Experts
from moe.kernels.align import align_tokens
from moe.kernels.combine import combine
from moe.kernels.grouped_gemm import grouped_gemm
from moe.kernels.launch import INTERPRETED
from moe.kernels.quantize import quantize_rows, quantize_tensor, tensor_scale
from moe.kernels.silu_mul import silu_mul
from moe.kernels.tiles import block_rows
from moe.spec import BLOCK
from moe.types import Activations

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import ExpertWeights, Routing


class TritonExperts(Experts):
    """Any scheme of the row. Never waits for the device: sizes follow from shapes alone."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Raises MoEError when a static scheme comes without its second scale."""
        if self.problem.scheme.activations == "fp8_static" and weights.a2_scale is None:
            raise MoEError("fp8_static activations need a calibrated a2_scale; it is None")
        self.weights = weights.replace(w13=weights.w13.contiguous(), w2=weights.w2.contiguous())

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        tokens, top_k = routing.topk_ids.shape
        rows = tokens * top_k
        if rows == 0 or self.num_local == 0:
            shape = (tokens, self.problem.hidden)
            return guarded_buffers.empty(shape, dtype=self.dtype, device=x.codes.device).zero_()
        w, ids = self.weights, routing.topk_ids
        block_m = block_rows(rows, self.problem.num_experts, interpreted=INTERPRETED)
        aligned = align_tokens(ids, self.num_local, block_m)
        gate_up = grouped_gemm(
            *(x.codes, w.w13, aligned),
            rows=rows,
            x_scale=x.scale,
            w_scale=w.w13_scale,
            dtype=self.dtype,
        )
        activation = silu_mul(gate_up, ids, activation=self.problem.activation)
        h = self._quantize(activation, ids)
        y = grouped_gemm(
            *(h.codes, w.w2, aligned),
            rows=rows,
            x_scale=h.scale,
            w_scale=w.w2_scale,
            dtype=self.dtype,
        )
        intermediates.keep("gemm1", gate_up)
        intermediates.keep("activation", activation)
        intermediates.keep("second", h.codes)
        intermediates.keep("second_scale", h.scale)
        intermediates.keep("gemm2", y)
        return combine(y, routing.topk_weights, ids)

    def _quantize(self, h: Tensor, ids: Tensor) -> Activations:
        """The method's `quantize_intermediate` in kernels, same bits. h: [R, n]; ids: R, -1 unused.

        A dynamic scale is taken over the rows in use, without gathering them first.
        """
        kind = self.problem.scheme.activations
        if kind == "model":
            return Activations(codes=h)
        if kind == "fp8_group":
            codes, scale = quantize_rows(h, "fp8", BLOCK)
        elif kind == "int8_token":
            codes, scale = quantize_rows(h, "int8", None)
        else:
            calibrated = self.weights.a2_scale if kind == "fp8_static" else None
            scale = calibrated if calibrated is not None else tensor_scale(h, ids, "fp8")
            codes = quantize_tensor(h, scale, "fp8")
        return Activations(codes=codes, scale=scale)
