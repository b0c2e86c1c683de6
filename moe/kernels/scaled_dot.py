"""Sum a tile of a product of values, or of codes whose scales are constant for 128 columns or more.

Scales that are constant along the inner dimension are applied once at the end, block scales after
each 128 elements. Sums are float32, or int32 for int8 x int8.
"""

from __future__ import annotations

import triton
import triton.language as tl

from moe.kernels import rounding
from moe.kernels.launch import INTERPRETED
from moe.spec import BLOCK

_INTERPRETED = tl.constexpr(INTERPRETED)
_SCALE_BLOCK = tl.constexpr(BLOCK)


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


@triton.jit
def scaled_dot(
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
