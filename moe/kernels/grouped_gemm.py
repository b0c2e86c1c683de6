"""Grouped GEMM: multiply each aligned row by the weights of its expert, and apply scales.

One program computes one [block_m, block_n] tile of rows of a single expert, so that weights are
read once for each block of rows. Sums are float32, or int32 for int8 x int8; see
`moe.kernels.products`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels.launch import launch, runs_kernels
from moe.kernels.products import Rows, check_bias, check_operands, product_of, store_tile, values_of
from moe.kernels.schedule import tile_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from moe.formats.quant_tensor import QuantTensor
    from moe.kernels.align import Aligned
    from moe.kernels.arranged import Arranged
    from moe.kernels.tiles import Tile


def grouped_gemm(
    x: QuantTensor,
    w: QuantTensor | Arranged,
    aligned: Aligned,
    *,
    rows: int,
    dtype: torch.dtype,
    tile: Tile | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return y [rows, out]: y[r] = dequant(x[r // (rows / S)]) @ dequant(w[expert of r]).T.

    x: [S, in] values or codes; S = T for the first product (rows = T * k), T * k for the second.
    w: [e, out, in] values or codes; those that `products.prepared` returns are read fastest.
    aligned: the rows of each expert; other rows are not written. dtype: of y, the model dtype or
    float32. bias: [e, out], added in float32 before y is rounded.

    Raises MoEError for shapes or formats that do not fit each other.
    """
    _check(x, w, rows)
    _check_aligned(aligned, rows, w.shape[0])
    check_bias(bias, w.shape)
    experts, out, _ = w.shape
    y = guarded_buffers.empty((rows, out), dtype=dtype, device=x.codes.device)
    if rows == 0 or experts == 0:
        return y
    about = Rows(block_m=aligned.block_m, blocks=min(rows, aligned.block_expert.numel()))
    product = product_of(x, w, bias, about, tile)
    if product.tile.block_m != aligned.block_m:
        sizes = f"{product.tile.block_m} rows, and aligned has blocks of {aligned.block_m}"
        raise MoEError(f"the tile has {sizes}; align the rows to the tile's block_m")
    blocks = aligned.block_expert.numel()
    if not runs_kernels(x.codes.device):  # on a CPU: no synchronisation, start no unused programs
        blocks = int(aligned.num_rows) // aligned.block_m
    grid = (blocks * triton.cdiv(out, product.tile.block_n),)
    launch(
        *(_grouped_gemm, grid, y.device, product.x, product.w, y, *product.extras),
        *(aligned.row_ids, aligned.block_expert, aligned.num_rows),
        *(rows, rows // x.codes.shape[0], *product.sizes),
        GROUP_M=product.tile.group_m,
        **product.constants,
    )
    return y


def _check(x: QuantTensor, w: QuantTensor | Arranged, rows: int) -> None:
    columns, inputs, tokens = x.shape[1], w.shape[2], x.shape[0]
    if columns != inputs:
        raise MoEError(f"rows of {columns} elements do not fit weights of {inputs} inputs")
    if rows and (not tokens or rows % tokens):
        raise MoEError(f"{rows} output rows are not a multiple of {tokens} input rows")
    check_operands(x, w)


def _check_aligned(aligned: Aligned, rows: int, experts: int) -> None:
    """Raise MoEError if rows were aligned for other experts, whose numbers may be beyond w's."""
    if (aligned.rows, aligned.experts) != (rows, experts):
        raise MoEError(
            f"aligned are {aligned.rows} rows for {aligned.experts} experts, and the product is of "
            f"{rows} rows with {experts} experts: call align_tokens for these"
        )


@triton.jit(do_not_specialize=("rows", "slots"))
def _grouped_gemm(
    x_ptr, w_ptr, y_ptr, x_scale_ptr, w_scale_ptr, zero_ptr, x_total_ptr, w_total_ptr, bias_ptr,
    row_ids_ptr, block_expert_ptr, num_rows_ptr, rows, slots, out, inner,
    X_SCALE: tl.constexpr, W_SCALE: tl.constexpr, KIND: tl.constexpr, PACKED: tl.constexpr,
    SPAN: tl.constexpr, WIDTH: tl.constexpr, INTEGER: tl.constexpr, PRECISE: tl.constexpr,
    EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(out, BLOCK_N)
    block, tile = tile_of(tiles, tl.num_programs(0) // tiles, GROUP_M)
    if block * BLOCK_M >= tl.load(num_rows_ptr):
        return
    expert = tl.load(block_expert_ptr + block).to(tl.int64)
    row = tl.load(row_ids_ptr + block * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    real = row < rows
    source = tl.where(real, row // slots, 0)
    column = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    store_tile(
        x_ptr, w_ptr, y_ptr, x_scale_ptr, w_scale_ptr, zero_ptr, x_total_ptr, w_total_ptr, bias_ptr,
        expert, source, row, real, column, out, inner,
        X_SCALE, W_SCALE, KIND, PACKED, SPAN, WIDTH, INTEGER, PRECISE, EVEN,
        BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip


def grouped_gemm_torch(
    x: QuantTensor,
    w: QuantTensor,
    aligned: Aligned,
    *,
    rows: int,
    dtype: torch.dtype,
    tile: Tile | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute the result of `grouped_gemm`, block by block, from dequantized float64 values."""
    del tile
    _check(x, w, rows)
    check_bias(bias, w.shape)
    y = guarded_buffers.empty((rows, w.codes.shape[1]), dtype=dtype, device=x.codes.device)
    values = values_of(x)
    for block, expert in enumerate(aligned.block_expert.tolist()):
        row = aligned.row_ids[block * aligned.block_m : (block + 1) * aligned.block_m].long()
        row = row[row < rows]
        if expert >= 0 and len(row):
            total = values[row // (rows // x.codes.shape[0])] @ values_of(w.expert(expert)).T
            if bias is not None:
                total = total + bias[expert].double()
            y[row] = total.float().to(dtype)
    return y
