"""Compute experts by DeepGEMM's masked grouped products on Hopper: fp8 in blocks, on batches.

Its tiles of 128 rows are stored whole, so that each expert's block of rows must end at a tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moe import guarded_buffers
from moe.errors import MoEError
from moe.experts.base import BatchedExperts
from moe.kernels.activation import activate_batched
from moe.kernels.quantize import quantize_rows

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Batches, ExpertWeights

_TILE_ROWS = 128
_GROUP = 128  # elements of a row that share a scale


class DeepGemmMaskedExperts(BatchedExperts):
    """Call the product with counts, activate and quantize by Triton kernels, and call it again."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep codes [e, out, in] with scales of 128 x 128 blocks, as the kernel reads them."""
        # Imported on use: planning works without DeepGEMM.
        import deep_gemm

        self._deep_gemm: Any = deep_gemm
        self._w13 = _pair("w13_scale", weights.w13, weights.w13_scale)
        self._w2 = _pair("w2_scale", weights.w2, weights.w2_scale)

    def capacity(self, tokens: int) -> int:
        """Return room for all tokens, in whole tiles."""
        return -(-tokens // _TILE_ROWS) * _TILE_ROWS

    def apply(self, batches: Batches) -> Tensor:
        experts, capacity, hidden = batches.x.codes.shape
        if experts * capacity == 0:
            return self._empty(batches, hidden)
        assert batches.x.scale is not None, "fp8_group codes have scales"
        rows = batches.x.codes, batches.x.scale
        gate_up = self._product(rows, self._w13, batches)
        h = activate_batched(gate_up, batches.counts, activation=self.layer_spec.activation)
        codes, scale = quantize_rows(h.flatten(0, 1), "fp8", _GROUP)
        second = codes.view(h.shape), scale.view(experts, capacity, -1)
        return self._product(second, self._w2, batches)

    def _product(
        self, rows: tuple[Tensor, Tensor], w: tuple[Tensor, Tensor], batches: Batches
    ) -> Tensor:
        """Return [e, C, out] of the rows in use. rows, w: codes with their scales."""
        y = self._empty(batches, w[0].shape[1])
        # A hint for the choice of tiles: the rows of an expert if all are used alike.
        expected = max(1, batches.slots.shape[1] * self.layer_spec.top_k // len(batches.slots))
        self._deep_gemm.m_grouped_fp8_gemm_nt_masked(
            rows, w, y, batches.counts, min(expected, batches.slots.shape[1])
        )
        return y

    def _empty(self, batches: Batches, columns: int) -> Tensor:
        shape = (*batches.slots.shape, columns)
        return guarded_buffers.empty(shape, dtype=self.dtype, device=batches.x.codes.device)


def _pair(name: str, codes: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return codes and float32 scales, contiguous. Raises MoEError if there is none per block."""
    shape = [codes.shape[0], *(-(-side // _GROUP) for side in codes.shape[1:])]
    got = None if scale is None else list(scale.shape)
    if scale is None or got != shape:
        raise MoEError(f"{name} is {got}; DeepGEMM takes one scale per block, {shape}: fp8_block")
    return codes.contiguous(), scale.float().contiguous()
