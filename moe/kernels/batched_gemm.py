"""Batched GEMM: multiply each expert's block of rows by its weights; rows not in use are masked.

One program computes one [block_m, block_n] tile of one expert's block of C rows. Tiles that begin
at or beyond the expert's count end at once; in the last tile rows beyond it are neither read nor
written, so that what they hold, NaN say, reaches no other row. Products and scales are those of
`moe.kernels.grouped_gemm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.formats.quant_tensor import spread_scale
from moe.kernels import rounding
from moe.kernels.grouped_gemm import _dot, _tile, check_bias, constants
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.scales import w_kind_of, x_kind_of
from moe.kernels.schedule import with_bias
from moe.kernels.tiles import Tile, block_rows

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.quant_tensor import QuantTensor


def batched_gemm(
    x: QuantTensor,
    w: QuantTensor,
    counts: Tensor,
    *,
    dtype: torch.dtype,
    tile: Tile | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return y [e, C, out]: y[e, r] = dequant(x[e, r]) @ dequant(w[e]).T for r < counts[e].

    x: [e, C, in] values or codes, with scales by row [e, C, groups] or one for all. w: [e, out, in]
    values or codes. counts: [e] int32. Other rows of y are not written. dtype: of y, the model
    dtype or float32. bias: [e, out], added in float32 before y is rounded.

    Raises MoEError for shapes or formats that do not fit each other.
    """
    check_batched(x, w, counts)
    check_bias(bias, w.codes)
    experts, capacity, inner = x.codes.shape
    device, out = x.codes.device, w.codes.shape[1]
    y = guarded_buffers.empty((experts, capacity, out), dtype=dtype, device=device)
    if y.numel() == 0:
        return y
    x_kind, w_kind = x_kind_of(x.format), w_kind_of(w.format)
    blocked = x_kind == "group" or w_kind == "block"
    block_m = block_rows(capacity, 1, interpreted=INTERPRETED)
    tile = tile or _tile(x.codes, w.codes, block_m, blocked)
    grid = (triton.cdiv(out, tile.block_n), triton.cdiv(capacity, tile.block_m), experts)
    launch(
        *(_batched_gemm, grid, device, x.codes.contiguous(), w.codes.contiguous(), y),
        *(x.scale, w.scale, None if bias is None else bias.contiguous()),
        *(counts.contiguous(), capacity, out, inner),
        **{k: v for k, v in constants(x.codes, w.codes, x_kind, w_kind, tile).items()
           if k != "GROUP_M"},
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )  # fmt: skip
    return y


def check_batched(x: QuantTensor, w: QuantTensor, counts: Tensor) -> None:
    """Raise MoEError for operands that do not fit each other."""
    if x.codes.ndim != 3 or x.codes.shape[::2] != w.codes.shape[::2]:
        raise MoEError(
            f"batched rows {list(x.codes.shape)} do not fit weights {list(w.codes.shape)}; they "
            "must be [e, capacity, in] and [e, out, in]"
        )
    if counts.shape != w.codes.shape[:1] or counts.dtype != torch.int32:
        raise MoEError(
            f"counts are {list(counts.shape)} of {counts.dtype}; there must be one int32 for each "
            f"of {len(w.codes)} experts"
        )
    if x.codes.dtype != w.codes.dtype and x.codes.dtype.itemsize == 1:
        raise MoEError(
            f"cannot multiply {x.codes.dtype} rows by {w.codes.dtype} weights; quantize both, or "
            "only weights"
        )
    _by_row(x).check()
    w.check()


def _by_row(x: QuantTensor) -> QuantTensor:
    """Return batched rows [e, C, in] as a matrix [e * C, in] with its scales."""
    scale = x.scale
    if scale is not None and x.format.has_row_scales:
        scale = scale.flatten(0, 1)
    return x.replace(codes=x.codes.flatten(0, 1), scale=scale)


@triton.jit
def _batched_gemm(
    x_ptr, w_ptr, y_ptr, x_scale_ptr, w_scale_ptr, bias_ptr, counts_ptr, capacity, out, inner,
    X_SCALE: tl.constexpr, W_SCALE: tl.constexpr, INTEGER: tl.constexpr, PRECISE: tl.constexpr,
    EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    expert = tl.program_id(2).to(tl.int64)
    start = tl.program_id(1) * BLOCK_M
    count = tl.minimum(tl.load(counts_ptr + expert), capacity)
    if start >= count:
        return
    place = start + tl.arange(0, BLOCK_M)
    used = place < count
    row = expert * capacity + tl.where(used, place, 0)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    result = _dot(
        x_ptr, w_ptr, x_scale_ptr, w_scale_ptr, expert, row, used, column, out, inner,
        X_SCALE, W_SCALE, INTEGER, PRECISE, EVEN, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    result = with_bias(result, bias_ptr, expert, column, out)
    y = rounding.to_model_dtype(result, y_ptr.dtype.element_ty)
    live = used[:, None] & (column < out)[None, :]
    tl.store(y_ptr + row[:, None] * out + column[None, :], y, mask=live)


def batched_gemm_torch(
    x: QuantTensor,
    w: QuantTensor,
    counts: Tensor,
    *,
    dtype: torch.dtype,
    tile: Tile | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute the result of `batched_gemm`, expert by expert, from dequantized float64 values."""
    del tile
    check_batched(x, w, counts)
    check_bias(bias, w.codes)
    experts, capacity, _ = x.codes.shape
    out = (experts, capacity, w.codes.shape[1])
    y = guarded_buffers.empty(out, dtype=dtype, device=x.codes.device)
    values, matrices = x.codes.float().double(), w.codes.float().double()
    if x.scale is not None:
        values *= (
            spread_scale(_by_row(x)).view(*values.shape[:2], -1)
            if (x.format.has_row_scales)
            else x.scale
        )
    matrices = matrices if w.scale is None else matrices * spread_scale(w)
    for e, count in enumerate(counts.tolist()):
        total = values[e, :count] @ matrices[e].T
        y[e, :count] = (total if bias is None else total + bias[e].double()).float().to(dtype)
    return y
