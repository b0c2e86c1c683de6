"""Quantize weights: a matrix, or those of all experts at once, with a scale per block of a format.

`moe_quantize_weights_2d` and `moe_quantize_weights` take every format whose scales are float32: one
per matrix, row, group of a row or block, the last of which may be short. Both have a `_torch` twin,
which gives the same bits. The rules are those of `moe.kernels.quantize`; a format of another
folder can have a quantizer of its own (`Format.quantizer`), and one without a kernel here is
quantized by its codec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.formats.quant_tensor import QuantTensor, spread_scale
from moe.kernels import rounding
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.quantize import codes_like
from moe.kernels.scales import KINDS
from moe.kernels.tiles import program_size
from moe.spec import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Arguments that are no strides: a binary for each multiple of 16 and for 1 would gain nothing.
_COUNTS = ("block_rows", "block_columns", "strips", "steps")


def moe_quantize_weights_2d(w: Tensor, fmt: Format) -> QuantTensor:
    """Return the codes of one matrix, with its scales.

    w: [O, I] bf16, fp16 or float32, of any strides. Scales are float32, one per block; sides along
    which all values share a scale are left out: [] per matrix, [O] per row, [O, ceil(I/group)] per
    group, [ceil(O/rows), ceil(I/columns)] per block. Raises MoEError for other shapes and dtypes,
    and for a format without codes.
    """
    _check(w, fmt, "a matrix [out, in]", 2)
    return moe_quantize_weights(w[None], fmt).expert(0)


def moe_quantize_weights_2d_torch(w: Tensor, fmt: Format) -> QuantTensor:
    """Compute the result of `moe_quantize_weights_2d` in torch."""
    _check(w, fmt, "a matrix [out, in]", 2)
    return moe_quantize_weights_torch(w[None], fmt).expert(0)


def moe_quantize_weights(w: Tensor, fmt: Format) -> QuantTensor:
    """Return the codes of all experts' matrices, each with scales of its own.

    w: [e, O, I], as in `moe_quantize_weights_2d`; e may be 0. Scales are those of a matrix,
    stacked along e.
    """
    _check(w, fmt, "matrices [experts, out, in]", 3)
    if fmt.quantizer is not None:
        quantized: QuantTensor = resolve(fmt.quantizer)(w, fmt)
        return quantized
    if fmt.grid not in KINDS:
        return moe_quantize_weights_torch(w, fmt)
    return _by_kernels(w, fmt, KINDS[fmt.grid])


def moe_quantize_weights_torch(w: Tensor, fmt: Format) -> QuantTensor:
    """Compute the result of `moe_quantize_weights` in torch, one expert after the other.

    The twin of `Format.quantizer` is called as it, with `_torch` at the end.
    """
    _check(w, fmt, "matrices [experts, out, in]", 3)
    if fmt.quantizer is not None:
        quantized: QuantTensor = resolve(f"{fmt.quantizer}_torch")(w, fmt)
        return quantized
    codes = torch.empty(w.shape, dtype=fmt.codec.dtype, device=w.device)
    scale = torch.empty((len(w), *_scale_shape(w, fmt)), dtype=torch.float32, device=w.device)
    for e, matrix in enumerate(w):  # float32 copies of all would take up to 4 times the memory
        codes[e], scale[e] = _of_matrix(matrix.float(), fmt)
    return QuantTensor(codes=codes, scale=scale, format=fmt)


def _check(w: Tensor, fmt: Format, noun: str, sides: int) -> None:
    if fmt.block is None:
        rule = "it keeps the layer's dtype; choose a format with codes, such as fp8_channel"
        raise MoEError(f"weights cannot be quantized to format {fmt.name!r}: {rule}")
    if fmt.quantizer is None and not _has_plain_scales(fmt):
        rule = "name the function that quantizes weights to it as `quantizer` of its row"
        raise MoEError(f"format {fmt.name!r} has more than a float32 scale per block: {rule}")
    if w.dim() != sides:
        raise MoEError(f"weights of shape {list(w.shape)} are not {noun}; reshape them")
    if w.dtype not in _DTYPES:
        names = ", ".join(str(dtype) for dtype in _DTYPES)
        raise MoEError(
            f"weights of {w.dtype} cannot be quantized, only {names}; convert them first"
        )


def _has_plain_scales(fmt: Format) -> bool:
    """Return whether a code is `value / scale`, with a float32 scale `amax * (1 / top)`."""
    return (
        fmt.scale_dtype == "f32"
        and fmt.packing == 1
        and not (fmt.zero_point or fmt.global_scale or fmt.scale_divides)
        and fmt.scale_top in (None, fmt.top)
        and fmt.lowest == -fmt.top
    )


def _scale_shape(w: Tensor, fmt: Format) -> tuple[int, ...]:
    """Return the shape of a matrix's scales, without sides along which all values share one."""
    assert fmt.block is not None
    counts = fmt.blocks(*w.shape[-2:])
    return tuple(n for n, side in zip(counts, fmt.block, strict=True) if side is not None)


def _of_matrix(w: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """Return the codes [O, I] and the scales of one matrix, by the format's codec."""
    scale = scale_of(block_amax(w, fmt), fmt).reshape(_scale_shape(w, fmt))
    ratio = w / spread_scale(QuantTensor(codes=w, scale=scale, format=fmt))
    if fmt.grid in KINDS:
        return rounding.codes_torch(ratio, KINDS[fmt.grid]), scale
    return fmt.codec.encode(ratio), scale


def scale_of(amax: Tensor, fmt: Format) -> Tensor:
    """Return the scale of values up to `amax`, in float32; 1 for zeros, and NaN for NaN."""
    reciprocal = torch.tensor(1.0 / fmt.top, dtype=torch.float32, device=amax.device)
    scale = amax.float() * reciprocal
    return torch.where(scale == 0, 1.0, scale)


def block_amax(w: Tensor, fmt: Format) -> Tensor:
    """Return the largest |w| of each block, [blocks along O, blocks along I]. w: [O, I]."""
    rows, columns = w.shape
    down, across = fmt.block or (None, None)
    down, across = down or max(rows, 1), across or max(columns, 1)
    padded = torch.nn.functional.pad(w.abs(), (0, -columns % across, 0, -rows % down))
    if not padded.numel():  # without rows or columns a shared scale is that of zeros
        return w.new_zeros(fmt.blocks(rows, columns))
    return padded.view(len(padded) // down, down, -1, across).amax(dim=(1, 3))


def _by_kernels(w: Tensor, fmt: Format, kind: str) -> QuantTensor:
    """Launch the kernels: the largest value of each block, then its scale, then the codes."""
    experts, rows, columns = w.shape
    assert fmt.block is not None
    down, across = fmt.block[0] or max(rows, 1), fmt.block[1] or max(columns, 1)
    block_rows, block_columns = fmt.blocks(rows, columns)
    codes, raw = codes_like(w, kind)
    amax = torch.zeros((experts, block_rows, block_columns), dtype=torch.int32, device=w.device)
    scale = guarded_buffers.empty(amax.shape, dtype=torch.float32, device=w.device)
    tile_rows, tile_columns = _tile(down, across, rows, columns)
    steps = triton.cdiv(min(across, max(columns, 1)), tile_columns)  # tiles of a block, by columns
    strips = (
        triton.cdiv(rows, tile_rows) if down == 1 else block_rows * triton.cdiv(down, tile_rows)
    )
    arguments = (*w.stride(), rows, columns, down, across, block_rows, block_columns, strips, steps)
    shape = {"KIND": kind, "BY_ROW": down == 1, "ROWS": tile_rows, "COLUMNS": tile_columns}
    grid = (experts * strips, block_columns * steps)
    if w.numel():
        launch(_block_amax, grid, w.device, w, amax, *arguments, **shape)
    _launch_scales(amax, scale, kind)
    if w.numel():
        launch(_encode_blocks, grid, w.device, w, scale, raw, *arguments, **shape)
    return QuantTensor(codes=codes, scale=scale.view(experts, *_scale_shape(w, fmt)), format=fmt)


def _size() -> int:
    """Return the elements for each program, at most."""
    return program_size(4096, 1 << 18, is_interpreted=INTERPRETED)


def _tile(down: int, across: int, rows: int, columns: int) -> tuple[int, int]:
    """Return rows and columns of a tile: within one block, or one block of columns if `down` is 1.

    Both are powers of two; what exceeds the block is masked.
    """
    size = _size()
    wide = min(triton.next_power_of_2(max(min(across, columns), 1)), size if INTERPRETED else 512)
    high = rows if down == 1 else min(down, rows)
    return max(1, min(triton.next_power_of_2(max(high, 1)), size // wide)), wide


def _launch_scales(amax: Tensor, scale: Tensor, kind: str) -> None:
    if amax.numel():
        grid = (triton.cdiv(amax.numel(), 1024),)
        launch(_scales, grid, amax.device, amax, scale, amax.numel(), KIND=kind, BLOCK=1024)


@triton.jit
def _place(
    rows, columns, down, across, strips, steps,
    BY_ROW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Return this program's (expert, rows, columns, live elements, block row, block column)."""
    expert = tl.program_id(0) // strips
    strip = tl.program_id(0) % strips
    block_column = tl.program_id(1) // steps
    inside = (tl.program_id(1) % steps) * COLUMNS + tl.arange(0, COLUMNS)
    column = block_column * across + inside
    if BY_ROW:  # each row has a scale of its own
        row = strip * ROWS + tl.arange(0, ROWS)
        block_row = row
        is_row = row < rows
    else:
        high = tl.cdiv(down, ROWS)
        deep = (strip % high) * ROWS + tl.arange(0, ROWS)
        row = (strip // high) * down + deep
        block_row = (strip // high) + tl.zeros([ROWS], tl.int32)
        is_row = (deep < down) & (row < rows)
    live = is_row[:, None] & ((inside < across) & (column < columns))[None, :]
    return expert.to(tl.int64), row.to(tl.int64), column.to(tl.int64), live, block_row, block_column


@triton.jit(do_not_specialize=_COUNTS)
def _block_amax(
    w_ptr, amax_ptr, stride_e, stride_o, stride_i, rows, columns, down, across,
    block_rows, block_columns, strips, steps,
    KIND: tl.constexpr, BY_ROW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Raise amax[block]: int32 bits of the largest magnitude, which sort like magnitudes."""
    expert, row, column, live, block_row, block_column = _place(
        rows, columns, down, across, strips, steps, BY_ROW, ROWS, COLUMNS
    )
    at = expert * stride_e + row[:, None] * stride_o + column[None, :] * stride_i
    w = tl.load(w_ptr + at, mask=live, other=0.0).to(tl.float32)
    of_rows = tl.max(rounding.magnitude_bits(w), axis=1)
    first = amax_ptr + expert * block_rows * block_columns + block_column
    if BY_ROW:
        tl.atomic_max(first + block_row * block_columns, of_rows, mask=row < rows)
    else:
        tl.atomic_max(first + tl.max(block_row, axis=0) * block_columns, tl.max(of_rows, axis=0))


@triton.jit(do_not_specialize=("size",))
def _scales(amax_ptr, scale_ptr, size, KIND: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bits = tl.load(amax_ptr + at, mask=at < size, other=0)
    tl.store(scale_ptr + at, rounding.scale_of(bits, KIND), mask=at < size)


@triton.jit(do_not_specialize=_COUNTS)
def _encode_blocks(
    w_ptr, scale_ptr, code_ptr, stride_e, stride_o, stride_i, rows, columns, down, across,
    block_rows, block_columns, strips, steps,
    KIND: tl.constexpr, BY_ROW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the contiguous codes of a tile."""
    expert, row, column, live, block_row, block_column = _place(
        rows, columns, down, across, strips, steps, BY_ROW, ROWS, COLUMNS
    )
    at = expert * stride_e + row[:, None] * stride_o + column[None, :] * stride_i
    w = tl.load(w_ptr + at, mask=live, other=0.0).to(tl.float32)
    scale_at = (expert * block_rows + block_row) * block_columns + block_column
    scale = tl.load(scale_ptr + scale_at, mask=row < rows, other=1.0)
    scaled = tl.div_rn(w, tl.zeros_like(w) + scale[:, None])
    out = (expert * rows + row[:, None]) * columns + column[None, :]
    tl.store(code_ptr + out, rounding.codes_of(scaled, KIND), mask=live)
