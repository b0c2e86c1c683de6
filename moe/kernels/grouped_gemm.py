"""Grouped GEMM: multiply each aligned row by the weights of its expert, and apply scales.

One program computes one [block_m, block_n] tile of rows of a single expert, so that weights are
read once for each block of rows. Sums are float32, or int32 for int8 x int8. Scales that are
constant along the inner dimension are applied once at the end, block scales after each 128
elements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.formats.quant_tensor import spread_blocks, spread_scale
from moe.kernels import decoding_gemm, rounding
from moe.kernels.launch import INTERPRETED, launch, shared_bytes
from moe.kernels.scales import w_kind_of, x_kind_of
from moe.kernels.schedule import tile_of, with_bias
from moe.kernels.tiles import Tile, gemm_tile, interpreted_tile
from moe.spec import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.quant_tensor import QuantTensor
    from moe.kernels.align import Aligned

_INTERPRETED = tl.constexpr(INTERPRETED)
_SCALE_BLOCK = tl.constexpr(BLOCK)
_CODES = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.int8)


def grouped_gemm(
    x: QuantTensor,
    w: QuantTensor,
    aligned: Aligned,
    *,
    rows: int,
    dtype: torch.dtype,
    tile: Tile | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return y [rows, out]: y[r] = dequant(x[r // (rows / S)]) @ dequant(w[expert of r]).T.

    x: [S, in] values or codes; S = T for the first product (rows = T * k), T * k for the second.
    w: [e, out, in] values or codes. aligned: the rows of each expert; other rows are not written.
    dtype: of y, the model dtype or float32. bias: [e, out], added in float32 before y is rounded.

    Raises MoEError for shapes or formats that do not fit each other.
    """
    x_codes, w_codes = x.codes, w.codes
    _check(x, w, rows)
    check_bias(bias, w_codes)
    y = guarded_buffers.empty((rows, w_codes.shape[1]), dtype=dtype, device=x_codes.device)
    if rows == 0 or w_codes.shape[0] == 0:
        return y
    if decoding_gemm.decodes(x.format, w.format):
        decoding_gemm.run(x, w, aligned, y, bias=bias, tile=tile)
        return y
    x_kind, w_kind = x_kind_of(x.format), w_kind_of(w.format)
    blocked = x_kind == "group" or w_kind == "block"
    tile = tile or _tile(x_codes, w_codes, aligned.block_m, blocked)
    assert tile.block_m == aligned.block_m, "rows are aligned to blocks of another size"
    assert not blocked or tile.block_k == BLOCK, "a step must be one block of scales"
    blocks = aligned.block_expert.numel()
    if x_codes.device.type == "cpu":  # no synchronisation needed: start no unused programs
        blocks = int(aligned.num_rows) // aligned.block_m
    tiles = triton.cdiv(w_codes.shape[1], tile.block_n)
    device = x_codes.device
    launch(
        *(_grouped_gemm, (blocks * tiles,), device, x_codes.contiguous(), w_codes.contiguous(), y),
        *(x.scale, w.scale, None if bias is None else bias.contiguous()),
        *(aligned.row_ids, aligned.block_expert, aligned.num_rows),
        *(rows, rows // x_codes.shape[0], w_codes.shape[1], w_codes.shape[2]),
        **constants(x_codes, w_codes, x_kind, w_kind, tile),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return y


def constants(x: Tensor, w: Tensor, x_kind: str, w_kind: str, tile: Tile) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel."""
    return {
        "X_SCALE": x_kind,
        "W_SCALE": w_kind,
        "INTEGER": x.dtype == w.dtype == torch.int8,
        "PRECISE": min(128, tile.block_k) if x.dtype == w.dtype == torch.float8_e4m3fn else 0,
        "EVEN": w.shape[2] % tile.block_k == 0,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "GROUP_M": tile.group_m,
    }


def check_bias(bias: Tensor | None, w: Tensor) -> None:
    """Raise MoEError unless the bias is None or [e, out] for w [e, out, in]."""
    if bias is not None and bias.shape != w.shape[:2]:
        raise MoEError(
            f"bias is {list(bias.shape)}; weights {list(w.shape)} need one value for each of their "
            f"rows: {list(w.shape[:2])}"
        )


def _check(x_tensor: QuantTensor, w_tensor: QuantTensor, rows: int) -> None:
    x, w = x_tensor.codes, w_tensor.codes
    columns, inputs = x_tensor.shape[1], w_tensor.shape[2]
    if columns != inputs:
        raise MoEError(f"rows of {columns} elements do not fit weights of {inputs} inputs")
    if rows and (not x.shape[0] or rows % x.shape[0]):
        raise MoEError(f"{rows} output rows are not a multiple of {x.shape[0]} input rows")
    if decoding_gemm.decodes(x_tensor.format, w_tensor.format):
        decoding_gemm.check(x_tensor, w_tensor)
        return
    if x.dtype != w.dtype and (x.dtype in _CODES or w.dtype not in _CODES):
        raise MoEError(
            f"cannot multiply {x.dtype} rows by {w.dtype} weights; quantize both, or only weights"
        )
    x_tensor.check()
    w_tensor.check()


def _tile(x: Tensor, w: Tensor, block_m: int, blocked: bool) -> Tile:
    _, out, inner = w.shape
    if INTERPRETED:
        return interpreted_tile(block_m, out, inner, blocked=blocked)
    size, limit = max(x.element_size(), w.element_size()), shared_bytes(x.device)
    return gemm_tile(block_m, out, inner, size, blocked=blocked, shared_bytes=limit)


@triton.jit
def _product(x, w, total, INTEGER: tl.constexpr, PRECISE: tl.constexpr):
    """Return total + x @ w. The interpreter's dot is correct for float32 and int8 only."""
    if INTEGER:
        return tl.dot(x, w, total, out_dtype=tl.int32)
    elif _INTERPRETED:
        return tl.dot(rounding.values_of(x), rounding.values_of(w), total)
    elif PRECISE > 0:  # fp8: leave the tensor core's short accumulator every PRECISE elements
        return tl.dot(x, w, total, max_num_imprecise_acc=PRECISE)
    else:
        return tl.dot(x, w.to(x.dtype), total, input_precision="ieee")


@triton.jit(do_not_specialize=("rows", "slots"))
def _grouped_gemm(
    x_ptr, w_ptr, y_ptr, x_scale_ptr, w_scale_ptr, bias_ptr,
    row_ids_ptr, block_expert_ptr, num_rows_ptr, rows, slots, out, inner,
    X_SCALE: tl.constexpr, W_SCALE: tl.constexpr, INTEGER: tl.constexpr, PRECISE: tl.constexpr,
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
    result = _dot(
        x_ptr, w_ptr, x_scale_ptr, w_scale_ptr, expert, source, real, column, out, inner,
        X_SCALE, W_SCALE, INTEGER, PRECISE, EVEN, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    result = with_bias(result, bias_ptr, expert, column, out)
    y = rounding.to_model_dtype(result, y_ptr.dtype.element_ty)
    live = real[:, None] & (column < out)[None, :]
    tl.store(y_ptr + row[:, None] * out + column[None, :], y, mask=live)


@triton.jit
def _dot(
    x_ptr, w_ptr, x_scale_ptr, w_scale_ptr, expert, source, real, column, out, inner,
    X_SCALE: tl.constexpr, W_SCALE: tl.constexpr, INTEGER: tl.constexpr, PRECISE: tl.constexpr,
    EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return float32 [BLOCK_M, BLOCK_N]: the tile's sum over the inner dimension, scaled."""
    BLOCKED: tl.constexpr = X_SCALE == "group" or W_SCALE == "block"
    k = tl.arange(0, BLOCK_K)
    weight_row = expert * out + tl.where(column < out, column, 0)
    x_at = x_ptr + source[:, None] * inner + k[None, :]
    w_at = w_ptr + weight_row[None, :] * inner + k[:, None]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if INTEGER and not BLOCKED else tl.float32)
    for step in range(tl.cdiv(inner, BLOCK_K)):
        if EVEN:
            x = tl.load(x_at, mask=real[:, None], other=0.0)
            w = tl.load(w_at)
        else:
            in_range = k < inner - step * BLOCK_K
            x = tl.load(x_at, mask=real[:, None] & in_range[None, :], other=0.0)
            w = tl.load(w_at, mask=in_range[:, None], other=0.0)
        if BLOCKED:
            zero = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if INTEGER else tl.float32)
            x_scale = _x_scale(x_scale_ptr, source, step, inner, X_SCALE)
            w_scale = _w_scale(w_scale_ptr, expert, column, step, out, inner, W_SCALE)
            total += _product(x, w, zero, INTEGER, 0).to(tl.float32) * (x_scale * w_scale)
        else:
            total = _product(x, w, total, INTEGER, PRECISE)
        x_at += BLOCK_K
        w_at += BLOCK_K
    result = total.to(tl.float32)
    if not BLOCKED:
        x_scale = _x_scale(x_scale_ptr, source, 0, inner, X_SCALE)
        result *= x_scale * _w_scale(w_scale_ptr, expert, column, 0, out, inner, W_SCALE)
    return result


@triton.jit
def _x_scale(scale_ptr, source, step, inner, KIND: tl.constexpr):
    """Return float32 scales of the tile's rows, broadcastable to [BLOCK_M, BLOCK_N]."""
    if KIND == "none":
        return 1.0
    elif KIND == "tensor":
        return tl.load(scale_ptr)
    elif KIND == "token":
        return tl.load(scale_ptr + source)[:, None]
    else:
        return tl.load(scale_ptr + source * tl.cdiv(inner, _SCALE_BLOCK) + step)[:, None]


@triton.jit
def _w_scale(scale_ptr, expert, column, step, out, inner, KIND: tl.constexpr):
    """Return float32 scales of the tile's columns, broadcastable to [BLOCK_M, BLOCK_N]."""
    if KIND == "none":
        return 1.0
    elif KIND == "tensor":
        return tl.load(scale_ptr + expert)
    elif KIND == "channel":
        return tl.load(scale_ptr + expert * out + column, mask=column < out, other=0.0)[None, :]
    else:
        down, across = tl.cdiv(out, _SCALE_BLOCK), tl.cdiv(inner, _SCALE_BLOCK)
        at = (expert * down + column // _SCALE_BLOCK) * across + step
        return tl.load(scale_ptr + at, mask=column < out, other=0.0)[None, :]


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
    check_bias(bias, w.codes)
    y = guarded_buffers.empty((rows, w.codes.shape[1]), dtype=dtype, device=x.codes.device)
    values = _values(x)
    for block, expert in enumerate(aligned.block_expert.tolist()):
        row = aligned.row_ids[block * aligned.block_m : (block + 1) * aligned.block_m].long()
        row = row[row < rows]
        if expert >= 0 and len(row):
            total = values[row // (rows // x.codes.shape[0])] @ _values(w.expert(expert)).T
            if bias is not None:
                total = total + bias[expert].double()
            y[row] = total.float().to(dtype)
    return y


def _values(tensor: QuantTensor) -> Tensor:
    """Return dequantized float64 values."""
    codes = tensor.codes
    if tensor.format.packing > 1:
        values = tensor.format.codec.decode(codes).double()
    else:
        values = codes.double() if codes.dtype.itemsize > 1 else codes.float().double()
    if tensor.zero_point is not None:
        values -= spread_blocks(tensor, tensor.zero_point.double())
    return values if tensor.scale is None else values * spread_scale(tensor)
