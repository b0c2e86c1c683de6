"""Batched GEMM: multiply each expert's block of rows by its weights; rows not in use are masked.

One program computes one [block_m, block_n] tile of one expert's block of C rows. Tiles that begin
at or beyond the expert's count end at once; in the last tile rows beyond it are neither read nor
written, so that what they hold, NaN say, reaches no other row. Products and scales are those of
`moe.kernels.products`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.products import Rows, check_bias, check_operands, product_of, store_tile, values_of
from moe.kernels.tiles import Tile, block_rows

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.quant_tensor import QuantTensor
    from moe.kernels.arranged import Arranged


def batched_gemm(
    x: QuantTensor,
    w: QuantTensor | Arranged,
    counts: Tensor,
    *,
    dtype: torch.dtype,
    tile: Tile | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return y [e, C, out]: y[e, r] = dequant(x[e, r]) @ dequant(w[e]).T for r < counts[e].

    x: [e, C, in] values or codes, with scales by row [e, C, groups] or one for all. w: [e, out, in]
    values or codes; those that `products.prepared` returns are read fastest. counts: [e] int32.
    Other rows of y are not written. dtype: of y, the model dtype or float32. bias: [e, out], added
    in float32 before y is rounded.

    Raises MoEError for shapes or formats that do not fit each other.
    """
    check_batched(x, w, counts)
    check_bias(bias, w.shape)
    experts, capacity, _ = x.codes.shape
    device, out = x.codes.device, w.shape[1]
    y = guarded_buffers.empty((experts, capacity, out), dtype=dtype, device=device)
    if y.numel() == 0:
        return y
    block_m = block_rows(capacity, 1, interpreted=INTERPRETED)
    blocks = experts * triton.cdiv(capacity, block_m)
    product = product_of(by_row(x), w, bias, Rows(block_m=block_m, blocks=blocks), tile)
    tile = product.tile
    grid = (triton.cdiv(out, tile.block_n), triton.cdiv(capacity, tile.block_m), experts)
    launch(
        *(_batched_gemm, grid, device, product.x, product.w, y, *product.extras),
        *(counts.contiguous(), capacity, *product.sizes),
        **product.constants,
    )
    return y


def check_batched(x: QuantTensor, w: QuantTensor | Arranged, counts: Tensor) -> None:
    """Raise MoEError for operands that do not fit each other."""
    if x.codes.ndim != 3 or x.shape[::2] != w.shape[::2]:
        raise MoEError(
            f"batched rows {list(x.shape)} do not fit weights {list(w.shape)}; they must be "
            "[e, capacity, in] and [e, out, in]"
        )
    if counts.shape != w.shape[:1] or counts.dtype != torch.int32:
        raise MoEError(
            f"counts are {list(counts.shape)} of {counts.dtype}; there must be one int32 for each "
            f"of {w.shape[0]} experts"
        )
    check_operands(by_row(x), w)


def by_row(x: QuantTensor) -> QuantTensor:
    """Return batched rows [e, C, in] as a matrix [e * C, in] with its scales."""
    scale = x.scale
    if scale is not None and x.format.has_row_scales:
        scale = scale.flatten(0, 1)
    return x.replace(codes=x.codes.flatten(0, 1), scale=scale)


@triton.jit(do_not_specialize=("capacity",))
def _batched_gemm(
    x_ptr, w_ptr, y_ptr, x_scale_ptr, w_scale_ptr, zero_ptr, x_total_ptr, w_total_ptr, bias_ptr,
    counts_ptr, capacity, out, inner,
    X_SCALE: tl.constexpr, W_SCALE: tl.constexpr, KIND: tl.constexpr, PACKED: tl.constexpr,
    SPAN: tl.constexpr, WIDTH: tl.constexpr, INTEGER: tl.constexpr, PRECISE: tl.constexpr,
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
    store_tile(
        x_ptr, w_ptr, y_ptr, x_scale_ptr, w_scale_ptr, zero_ptr, x_total_ptr, w_total_ptr, bias_ptr,
        expert, row, row, used, column, out, inner,
        X_SCALE, W_SCALE, KIND, PACKED, SPAN, WIDTH, INTEGER, PRECISE, EVEN,
        BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip


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
    check_bias(bias, w.shape)
    experts, capacity, _ = x.codes.shape
    out = (experts, capacity, w.codes.shape[1])
    y = guarded_buffers.empty(out, dtype=dtype, device=x.codes.device)
    values = values_of(by_row(x)).view(experts, capacity, -1)
    matrices = values_of(w)
    for e, count in enumerate(counts.tolist()):
        total = values[e, :count] @ matrices[e].T
        y[e, :count] = (total if bias is None else total + bias[e].double()).float().to(dtype)
    return y
