"""What a quantization method is, and the slow, plain functions that its members share.

Scales are float32 multipliers that turn codes into values: `value = code * scale`. A scale is
`amax * (1 / max)`, one float32 product; a code is `round(clamp(x / scale))` with IEEE division.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch

from moe.kernels import quantize
from moe.spec import BLOCK
from moe.types import ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations

CODE_DTYPE = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
CODE_MAX = {"fp8": 448.0, "int8": 127.0}


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
            **self._shard_scales(weights, columns, intermediate),
        )

    def _shard_scales(
        self, weights: ExpertWeights, columns: range, intermediate: int
    ) -> dict[str, Tensor | None]:
        """Changes of the scales under `shard`; none where they do not run along the columns."""
        del weights, columns, intermediate
        return {}


def _gate_up_rows(t: Tensor, columns: range, intermediate: int) -> Tensor:
    """Rows of a [e, 2N, ...] tensor for these columns, gate rows then up rows."""
    gate = t[:, columns.start : columns.stop]
    up = t[:, intermediate + columns.start : intermediate + columns.stop]
    return torch.cat([gate, up], dim=1).contiguous()


def gate_up_scale_rows(t: Tensor, columns: range, intermediate: int, block: int = 1) -> Tensor:
    """As the weights' rows, for a scale that stands for `block` rows each.

    Raises ValueError where a block would straddle the shard or the gate/up seam.
    """
    edges = (columns.start, columns.stop, intermediate)
    if any(edge % block for edge in edges):
        raise ValueError(f"columns {columns} of {intermediate} cut a block of {block}; refuse it")
    blocks = range(columns.start // block, columns.stop // block)
    return _gate_up_rows(t, blocks, intermediate // block)


def encode(x: Tensor, kind: str) -> Tensor:
    """x: float32 multiples of a scale -> codes, to nearest, ties to even, saturating."""
    top = CODE_MAX[kind]
    clamped = x.clamp(-top, top)  # first: an overflowing cast is NaN in some torch versions
    return (clamped.round() if kind == "int8" else clamped).to(CODE_DTYPE[kind])


def quantize_tensor(x: Tensor, scale: Tensor, kind: str) -> Tensor:
    """[T, K] and a [] float32 scale -> codes: the kernel on a GPU, its twin elsewhere."""
    do = quantize.quantize_tensor if x.is_cuda else quantize.quantize_tensor_torch
    return do(x, scale, kind)


def quantize_rows(x: Tensor, kind: str, group: int | None) -> tuple[Tensor, Tensor]:
    """[T, K] -> codes and one scale per row [T, 1] or per `group` columns [T, ceil(K/group)]."""
    do = quantize.quantize_rows if x.is_cuda else quantize.quantize_rows_torch
    return do(x, kind, group)


def scale_of(amax: Tensor, kind: str) -> Tensor:
    """amax -> scale; 1 where everything is zero. NaN stays: it must not be lost in the codes."""
    reciprocal = torch.tensor(1.0 / CODE_MAX[kind], dtype=torch.float32, device=amax.device)
    scale = amax.float() * reciprocal
    return torch.where(scale == 0, 1.0, scale)


def quantize_matrix(w: Tensor, kind: str, granularity: str) -> tuple[Tensor, Tensor]:
    """One expert's matrix [O, I] -> codes [O, I] and scale.

    granularity: `tensor` -> [], `channel` -> [O], `block` -> [ceil(O/128), ceil(I/128)].
    """
    w = w.float()
    if granularity == "tensor":
        scale = scale_of(w.abs().amax(), kind)
        return encode(w / scale, kind), scale
    if granularity == "channel":
        scale = scale_of(w.abs().amax(dim=1), kind)
        return encode(w / scale[:, None], kind), scale
    if granularity == "block":
        scale = scale_of(_block_amax(w), kind)
        return encode(w / expand_blocks(scale, *w.shape), kind), scale
    raise ValueError(f"granularity must be tensor, channel or block, not {granularity!r}")


def quantize_experts(w: Tensor, kind: str, granularity: str) -> tuple[Tensor, Tensor]:
    """[e, O, I] -> codes [e, O, I] and the scales of `quantize_matrix`, stacked along e."""
    if w.shape[0] == 0:
        blank = quantize_matrix(w.new_zeros(w.shape[1:]), kind, granularity)
        return w.to(CODE_DTYPE[kind]), blank[1].new_zeros((0, *blank[1].shape))
    codes = torch.empty(w.shape, dtype=CODE_DTYPE[kind], device=w.device)
    scales = []
    for e, matrix in enumerate(w):  # one at a time: float32 copies of all would be 4x the memory
        codes[e], scale = quantize_matrix(matrix, kind, granularity)
        scales.append(scale)
    return codes, torch.stack(scales)


def quantize_pair(w13: Tensor, w2: Tensor, kind: str, granularity: str) -> ExpertWeights:
    """Both matrices of some experts, [e, 2N, K] and [e, K, N], as `quantize_experts` does."""
    codes13, scale13 = quantize_experts(w13, kind, granularity)
    codes2, scale2 = quantize_experts(w2, kind, granularity)
    return ExpertWeights(w13=codes13, w2=codes2, w13_scale=scale13, w2_scale=scale2)


def _block_amax(w: Tensor) -> Tensor:
    rows, cols = w.shape
    pad = (-cols % BLOCK, -rows % BLOCK)
    padded = torch.nn.functional.pad(w.abs(), (0, pad[0], 0, pad[1]))
    return padded.view(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK).amax(dim=(1, 3))


def expand_blocks(scale: Tensor, rows: int, cols: int) -> Tensor:
    """[..., ceil(rows/128), ceil(cols/128)] -> [..., rows, cols]."""
    wide = scale.repeat_interleave(BLOCK, dim=-2).repeat_interleave(BLOCK, dim=-1)
    return wide[..., :rows, :cols]


def dequantize_weight(codes: Tensor, scale: Tensor | None) -> Tensor:
    """[e, O, I] codes and any scale of `ExpertWeights` -> float32 values."""
    values = codes.float()
    if scale is None:
        return values
    if scale.ndim == 3:
        return values * expand_blocks(scale, *codes.shape[1:])
    return values * (scale[:, None, None] if scale.ndim == 1 else scale[:, :, None])


def dequantize_activations(x: Activations) -> Tensor:
    """[T, K] codes and any scale of `Activations` -> float32 values."""
    values = x.codes.float()
    if x.scale is None:
        return values
    if x.scale.ndim == 2 and x.scale.shape[1] != 1:
        return values * x.scale.repeat_interleave(BLOCK, dim=1)[:, : values.shape[1]]
    return values * x.scale
