"""Sum a tile of a product whose weights are decoded while they are loaded.

Weights are arranged (`moe.kernels.arranged`): one part of 16 or 32 columns after the other is
decoded, and multiplied in the dtype of the rows, bf16 or fp16, in which both operands are exact.
Sums are float32. The weights are the first operand, which a Hopper's tensor core takes from
registers: what is decoded needs no way through shared memory, and few rows make a narrow tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from moe.kernels import rounding
from moe.kernels.decode import (
    E2M1_FACTOR,
    E2M1_FACTOR_FP16,
    E4M3_LEFT,
    scale_values,
    scales_of_word,
    values_of_words,
)
from moe.kernels.launch import INTERPRETED

_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.jit
def _product(w, x, total):
    """Return total + w @ x. The interpreter's dot is correct for float32 only."""
    if _INTERPRETED:
        return tl.dot(w.to(tl.float32), x.to(tl.float32), total)
    else:
        return tl.dot(w.to(x.dtype), x, total)


@triton.jit
def _part_values(
    word, at, zero, PART: tl.constexpr, KIND: tl.constexpr, PACKED: tl.constexpr,
    HALF: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Return [ROWS, WIDTH], the values of a part, without scale. zero: [ROWS] int32."""
    if PACKED:
        return values_of_words(word, zero, PART, KIND, HALF, ROWS, WIDTH)
    elif _INTERPRETED:
        return rounding.values_of(tl.load(at)) - zero.to(tl.float32)[:, None]
    elif KIND == "unsigned":  # interpreted, the zero point of other kinds is 0
        return _as_rows(tl.load(at), HALF) - _as_rows(zero, HALF)[:, None]
    else:
        return _as_rows(tl.load(at), HALF)


@triton.jit
def _as_rows(codes, HALF: tl.constexpr):
    """Return codes of one byte in the dtype of the rows, which is exact."""
    return codes.to(tl.float16 if HALF else tl.bfloat16)


@triton.jit
def _scales_of_sums(at, out, SCALE: tl.constexpr, SPAN: tl.constexpr):
    """Return the scales of a step's sums, [BLOCK_N] each; they are loaded before the products."""
    if SCALE != "sums":
        return (0, 0, 0, 0)
    elif SPAN == 4:
        return (tl.load(at), 0, 0, 0)
    elif SPAN == 2:
        return (tl.load(at), tl.load(at + out), 0, 0)
    else:
        return (tl.load(at), tl.load(at + out), tl.load(at + 2 * out), tl.load(at + 3 * out))


@triton.jit
def _rows(at, real, columns, EVEN: tl.constexpr, WIDTH: tl.constexpr):
    """Return [WIDTH, BLOCK_M] values of rows; zeros where none are, or beyond `columns`."""
    live = real[None, :]
    if not EVEN:
        live = live & (tl.arange(0, WIDTH) < columns)[:, None]
    return tl.load(at, mask=live, other=0.0)


@triton.jit
def decoded_dot(
    x_ptr, w_ptr, scale_ptr, zero_ptr, expert, source, real, column, out, inner,
    KIND: tl.constexpr, SCALE: tl.constexpr, PACKED: tl.constexpr, SPAN: tl.constexpr,
    WIDTH: tl.constexpr, EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Return float32 [BLOCK_M, BLOCK_N], the sum over the inner dimension with groups' scales.

    SPAN: parts that share a scale. A scale multiplies the weights if both are exact in the rows'
    dtype, otherwise the sum over its columns.
    """
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16 and not _INTERPRETED
    SUMS: tl.constexpr = SCALE == "sums" or HALF
    UNSCALED: tl.constexpr = KIND == "e2m1" and SCALE != "e4m3"  # e4m3 scales have the factor
    FACTOR: tl.constexpr = E2M1_FACTOR_FP16 if HALF else E2M1_FACTOR
    row = tl.where(column < out, column, 0)
    steps = tl.cdiv(inner, 4 * WIDTH)
    k = tl.arange(0, WIDTH)
    x_at = x_ptr + source[None, :] * inner + k[:, None]
    first = expert * steps * out
    if PACKED:
        w_at = w_ptr + (first + row)[:, None] * (WIDTH // 2) + tl.arange(0, WIDTH // 2)[None, :]
    else:
        w_at = w_ptr + (first * 4 + row)[:, None] * WIDTH + k[None, :]
    scale_at = scale_ptr + (first * (4 // SPAN) if SCALE == "sums" else first) + row
    zero_at = row if zero_ptr is None else zero_ptr + first + row
    zero = tl.zeros([BLOCK_N], tl.int32)
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for step in range(steps):
        word = tl.load(w_at) if PACKED else 0
        bytes_of_scales = 0 if SCALE == "sums" else tl.load(scale_at)
        scales = _scales_of_sums(scale_at, out, SCALE, SPAN)
        zeros = 0 if zero_ptr is None else tl.load(zero_at)
        part_sum = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for part in tl.static_range(4):
            x = _rows(x_at + part * WIDTH, real, inner - (step * 4 + part) * WIDTH, EVEN, WIDTH)
            if zero_ptr is not None:
                zero = (zeros >> (8 * (part // SPAN))) & 0xFF
            w = _part_values(
                word, w_at + part * WIDTH * out, zero, part, KIND, PACKED, HALF, BLOCK_N, WIDTH
            )
            if UNSCALED:
                w *= FACTOR
            if SUMS:
                part_sum = _product(w, x, part_sum)
                if part % SPAN == SPAN - 1:
                    if SCALE == "sums":
                        scale = scales[part // SPAN]
                    else:
                        scale = scale_values((bytes_of_scales >> (8 * part)) & 0xFF, SCALE)
                    total += part_sum * scale[:, None]
                    part_sum = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
            else:
                w *= scales_of_word(bytes_of_scales, part, SCALE)[:, None]
                total = _product(w, x, total)
        x_at += 4 * WIDTH
        w_at += out * (WIDTH // 2) if PACKED else out * 4 * WIDTH
        scale_at += out * (4 // SPAN) if SCALE == "sums" else out
        if zero_ptr is not None:
            zero_at += out
    return tl.trans(total * E4M3_LEFT if SCALE == "e4m3" else total)
