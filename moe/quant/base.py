"""What a quantization method is, and the slow, plain functions that its members share.

Scales are float32 multipliers that turn codes into values: `value = code * scale`. A scale is
`amax * (1 / max)`, one float32 product; a code is `round(clamp(x / scale))` with IEEE division.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch

from moe.formats.quant_tensor import QuantTensor, dequantize, spread_scale
from moe.kernels import quantize
from moe.types import ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.types import Activations


class QuantMethod(ABC):
    """Weights before they are sharded, the layer's input, and the intermediate on its shard."""

    # Whether an input's scale depends on nothing but its own row: then it may be quantized
    # before it is sent. A dynamic per-tensor scale is taken over the gathered rows instead.
    input_scale_is_local: ClassVar[bool] = True

    @abstractmethod
    def quantize_weights(self, w13: Tensor, w2: Tensor) -> ExpertWeights:
        """w13: [e, 2N, K], w2: [e, K, N] in the model dtype, whole (not sharded) experts."""

    @abstractmethod
    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        """x: [T, K] model dtype. a1_scale: [] float32 for static schemes, else None."""

    def quantize_intermediate(self, h: Tensor, a2_scale: Tensor | None) -> Activations:
        """h: [R, n] this rank's columns. The same rule as the input's unless a method says so."""
        return self.quantize_input(h, a2_scale)

    def shard(self, weights: ExpertWeights, columns: range, intermediate: int) -> ExpertWeights:
        """The part of `weights` for these intermediate columns: gate and up halves each split."""
        return weights.replace(
            w13=_gate_up_rows(weights.w13, columns, intermediate),
            w2=weights.w2[:, :, columns.start : columns.stop].contiguous(),
            **_shard_scales(weights, columns, intermediate),
        )


def _gate_up_rows(t: Tensor, columns: range, intermediate: int) -> Tensor:
    """Rows of a [e, 2N, ...] tensor for these columns, gate rows then up rows."""
    gate = t[:, columns.start : columns.stop]
    up = t[:, intermediate + columns.start : intermediate + columns.stop]
    return torch.cat([gate, up], dim=1).contiguous()


def _shard_scales(
    weights: ExpertWeights, columns: range, intermediate: int
) -> dict[str, Tensor | None]:
    """The scales of this shard, as far as the format has some along the columns.

    Raises ValueError where a block would straddle the shard or the gate/up seam.
    """
    down, across = weights.format.block or (None, None)
    changes: dict[str, Tensor | None] = {}
    if len(columns) == intermediate:  # all of them: no block is cut, wherever the seam lies
        return changes
    if down is not None and weights.w13_scale is not None:
        blocks = _blocks_of(columns, intermediate, down)
        changes["w13_scale"] = _gate_up_rows(weights.w13_scale, blocks, intermediate // down)
    if across is not None and weights.w2_scale is not None:
        blocks = _blocks_of(columns, intermediate, across)
        changes["w2_scale"] = weights.w2_scale[..., blocks.start : blocks.stop].contiguous()
    return changes


def _blocks_of(columns: range, intermediate: int, block: int) -> range:
    edges = (columns.start, columns.stop, intermediate)
    if any(edge % block for edge in edges):
        raise ValueError(f"columns {columns} of {intermediate} cut a block of {block}; refuse it")
    return range(columns.start // block, columns.stop // block)


def quantize_tensor(x: Tensor, scale: Tensor, kind: str) -> Tensor:
    """[T, K] and a [] float32 scale -> codes: the kernel on a GPU, its twin elsewhere."""
    do = quantize.quantize_tensor if x.is_cuda else quantize.quantize_tensor_torch
    return do(x, scale, kind)


def quantize_rows(x: Tensor, kind: str, group: int | None) -> tuple[Tensor, Tensor]:
    """[T, K] -> codes and one scale per row [T, 1] or per `group` columns [T, ceil(K/group)]."""
    do = quantize.quantize_rows if x.is_cuda else quantize.quantize_rows_torch
    return do(x, kind, group)


def scale_of(amax: Tensor, fmt: Format) -> Tensor:
    """amax -> scale; 1 where everything is zero. NaN stays: it must not be lost in the codes."""
    reciprocal = torch.tensor(1.0 / fmt.top, dtype=torch.float32, device=amax.device)
    scale = amax.float() * reciprocal
    return torch.where(scale == 0, 1.0, scale)


def quantize_matrix(w: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """One expert's matrix [O, I] -> codes [O, I] and scale: one for each block of the format.

    A side along which a single scale serves all is left out: [] for a matrix, [O] for channels.
    """
    w = w.float()
    scale = scale_of(_block_amax(w, fmt), fmt)
    wide = spread_scale(QuantTensor(codes=w, scale=scale, format=fmt))
    codes = fmt.codec.encode(w / wide)
    assert fmt.block is not None
    return codes, scale.reshape([n for n, side in zip(scale.shape, fmt.block, strict=True) if side])


def quantize_experts(w: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """[e, O, I] -> codes [e, O, I] and the scales of `quantize_matrix`, stacked along e."""
    dtype = fmt.codec.dtype
    if w.shape[0] == 0:
        blank = quantize_matrix(w.new_zeros(w.shape[1:]), fmt)
        return w.to(dtype), blank[1].new_zeros((0, *blank[1].shape))
    codes = torch.empty(w.shape, dtype=dtype, device=w.device)
    scales = []
    for e, matrix in enumerate(w):  # one at a time: float32 copies of all would be 4x the memory
        codes[e], scale = quantize_matrix(matrix, fmt)
        scales.append(scale)
    return codes, torch.stack(scales)


def quantize_pair(w13: Tensor, w2: Tensor, fmt: Format) -> ExpertWeights:
    """Both matrices of some experts, [e, 2N, K] and [e, K, N], as `quantize_experts` does."""
    codes13, scale13 = quantize_experts(w13, fmt)
    codes2, scale2 = quantize_experts(w2, fmt)
    return ExpertWeights(w13=codes13, w2=codes2, w13_scale=scale13, w2_scale=scale2, format=fmt)


def _block_amax(w: Tensor, fmt: Format) -> Tensor:
    """[O, I] -> the largest |w| of each block, one number for each."""
    rows, columns = w.shape
    down, across = fmt.block or (None, None)
    down, across = down or max(rows, 1), across or max(columns, 1)
    padded = torch.nn.functional.pad(w.abs(), (0, -columns % across, 0, -rows % down))
    return padded.view(len(padded) // down, down, -1, across).amax(dim=(1, 3))


def dequantize_weight(w: QuantTensor) -> Tensor:
    """[e, O, I] or [O, I] -> float32 values."""
    return dequantize(w)


def dequantize_activations(x: Activations) -> Tensor:
    """[T, K] -> float32 values."""
    return dequantize(x)
