"""Define the base class of quantization methods, and functions that its members share.

`value = code * scale`, with scales in float32. A scale is `amax * (1 / max)`, one float32 product;
a code is `round(clamp(x / scale))` with IEEE division.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch

from moe.formats.quant_tensor import QuantTensor, dequantize, spread_scale
from moe.kernels import quantize
from moe.kernels.launch import runs_kernels
from moe.types import ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.types import Activations


class QuantMethod(ABC):
    """Quantize unsharded weights, the layer's input, and the intermediate of a rank's shard."""

    # Whether the scale of an input row depends on that row only, or is static. Then the input is
    # quantized before it is sent; otherwise the scale is computed over the gathered rows.
    input_scale_is_local: ClassVar[bool] = True

    @abstractmethod
    def quantize_weights(self, w13: Tensor, w2: Tensor) -> ExpertWeights:
        """Return quantized weights. w13: [e, 2N, K], w2: [e, K, N] model dtype, not sharded.

        w13 is [e, N, K] if the activation is not gated.
        """

    @abstractmethod
    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        """Return quantized rows. x: [T, K] model dtype. a1_scale: [] float32 if static, or None."""

    def quantize_intermediate(self, h: Tensor, a2_scale: Tensor | None) -> Activations:
        """Return quantized rows, by default as `quantize_input` does.

        h: [R, n] this rank's columns. a2_scale: [] float32 for static schemes, otherwise None.
        """
        return self.quantize_input(h, a2_scale)

    def shard(self, weights: ExpertWeights, columns: range, intermediate: int) -> ExpertWeights:
        """Return the part of `weights` for these intermediate columns, of gate and of any up.

        intermediate: N, the full size. Raises ValueError if a scale block would be cut.
        """
        return weights.replace(
            w13=_rows_of(weights.w13, columns, intermediate),
            w2=weights.w2[:, :, columns.start : columns.stop].contiguous(),
            **_shard_scales(weights, columns, intermediate),
        )


def _rows_of(t: Tensor, columns: range, intermediate: int) -> Tensor:
    """Return the rows of t, [e, 2N, ...] or [e, N, ...], for these columns: gate's, then up's."""
    part = slice(columns.start, columns.stop)
    return torch.cat(
        [half[:, part] for half in torch.split(t, intermediate, dim=1)], dim=1
    ).contiguous()


def _shard_scales(
    weights: ExpertWeights, columns: range, intermediate: int
) -> dict[str, Tensor | None]:
    """Return the scales that differ from the full weights' by name, for a shard of columns.

    Raises ValueError if a block straddles the shard or the seam between gate and up.
    """
    down, across = weights.format.block or (None, None)
    changes: dict[str, Tensor | None] = {}
    if len(columns) == intermediate:  # not sharded: no block is cut, wherever the seam is
        return changes
    if down is not None and weights.w13_scale is not None:
        blocks = _blocks_of(columns, intermediate, down)
        changes["w13_scale"] = _rows_of(weights.w13_scale, blocks, intermediate // down)
    if across is not None and weights.w2_scale is not None:
        blocks = _blocks_of(columns, intermediate, across)
        changes["w2_scale"] = weights.w2_scale[..., blocks.start : blocks.stop].contiguous()
    return changes


def _blocks_of(columns: range, intermediate: int, block: int) -> range:
    """Return the blocks that these columns consist of. Raises ValueError if one would be cut."""
    edges = (columns.start, columns.stop, intermediate)
    if any(edge % block for edge in edges):
        rule = "choose sizes whose shards are multiples of it"
        raise ValueError(f"columns {columns} of {intermediate} cut a block of {block}; {rule}")
    return range(columns.start // block, columns.stop // block)


def quantize_tensor(x: Tensor, scale: Tensor, kind: str) -> Tensor:
    """Return codes, [T, K]. scale: [] float32. Uses the kernel on a GPU, otherwise its twin."""
    do = quantize.quantize_tensor if runs_kernels(x.device) else quantize.quantize_tensor_torch
    return do(x, scale, kind)


def quantize_rows(x: Tensor, kind: str, group: int | None) -> tuple[Tensor, Tensor]:
    """Return codes [T, K] and float32 scales, [T, 1], or [T, ceil(K/group)] per `group` columns."""
    do = quantize.quantize_rows if runs_kernels(x.device) else quantize.quantize_rows_torch
    return do(x, kind, group)


def scale_of(amax: Tensor, fmt: Format) -> Tensor:
    """Return the scale of values up to `amax`, in float32; 1 for zeros, and NaN for NaN."""
    reciprocal = torch.tensor(1.0 / fmt.top, dtype=torch.float32, device=amax.device)
    scale = amax.float() * reciprocal
    return torch.where(scale == 0, 1.0, scale)


def quantize_matrix(w: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """Return codes [O, I] of an expert's matrix w, [O, I], and a scale per block of the format.

    Sides along which all values share a scale are left out: [] per matrix, [O] per channel.
    """
    w = w.float()
    scale = scale_of(_block_amax(w, fmt), fmt)
    element_scale = spread_scale(QuantTensor(codes=w, scale=scale, format=fmt))
    codes = fmt.codec.encode(w / element_scale)
    assert fmt.block is not None
    return codes, scale.reshape([n for n, side in zip(scale.shape, fmt.block, strict=True) if side])


def quantize_experts(w: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """Return codes of w, [e, O, I], and the scales of `quantize_matrix`, stacked along e."""
    dtype = fmt.codec.dtype
    if w.shape[0] == 0:
        blank = quantize_matrix(w.new_zeros(w.shape[1:]), fmt)
        return w.to(dtype), blank[1].new_zeros((0, *blank[1].shape))
    codes = torch.empty(w.shape, dtype=dtype, device=w.device)
    scales = []
    for e, matrix in enumerate(w):  # one at a time, since float32 copies of all take 4x the memory
        codes[e], scale = quantize_matrix(matrix, fmt)
        scales.append(scale)
    return codes, torch.stack(scales)


def quantize_pair(w13: Tensor, w2: Tensor, fmt: Format) -> ExpertWeights:
    """Return quantized weights of experts. w13: [e, 2N, K], w2: [e, K, N]."""
    codes13, scale13 = quantize_experts(w13, fmt)
    codes2, scale2 = quantize_experts(w2, fmt)
    return ExpertWeights(w13=codes13, w2=codes2, w13_scale=scale13, w2_scale=scale2, format=fmt)


def _block_amax(w: Tensor, fmt: Format) -> Tensor:
    """Return the largest |w| of each block, [blocks along O, blocks along I]. w: [O, I]."""
    rows, columns = w.shape
    down, across = fmt.block or (None, None)
    down, across = down or max(rows, 1), across or max(columns, 1)
    padded = torch.nn.functional.pad(w.abs(), (0, -columns % across, 0, -rows % down))
    return padded.view(len(padded) // down, down, -1, across).amax(dim=(1, 3))


def dequantize_weight(w: QuantTensor) -> Tensor:
    """Return the float32 values of [e, O, I] or [O, I] weights."""
    return dequantize(w)


def dequantize_activations(x: Activations) -> Tensor:
    """Return the float32 values of [T, K] activations."""
    return dequantize(x)
