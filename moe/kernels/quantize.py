"""Quantize to codes of fp8 or int8, with one scale per tensor, row or group of columns.

A scale is a float32 factor from codes to values: `amax * (1 / max)`, one float32 product, or 1 if
that is 0. A code is `round(clamp(x / scale))` with IEEE division. Kernels and twins give the same
bits. A NaN in `x` makes its scale NaN, and with it all values that share the scale. For rounding
rules see `moe.kernels.rounding`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels import rounding
from moe.kernels.arguments import (
    check_floats,
    check_ids,
    check_matrix,
    check_power_of_two,
    check_scale,
)
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.tiles import FEW, program_columns, program_rows, program_size, tile_length

if TYPE_CHECKING:
    from torch import Tensor

MAX = rounding.MAX


def _tile() -> int:
    """Return the elements for each program, approximately."""
    return program_size(4096, 1 << 18, is_interpreted=INTERPRETED)


def quantize_tensor(x: Tensor, scale: Tensor, kind: str) -> Tensor:
    """Return the codes of `x / scale`, of the same shape, in CODE_DTYPE of the kind.

    x: any shape, model dtype or float32. scale: [] float32. kind: "fp8", "fp8_fnuz" or "int8";
    raises MoEError for any other, and for a scale that is not one float32 number.
    """
    _check_tensor(x, scale)
    codes, raw = codes_like(x, kind)
    grid = (triton.cdiv(x.numel(), _tile()),)
    launch(
        *(_encode_tensor, grid, x.device, x.contiguous(), scale, raw, x.numel()),
        KIND=kind,
        BLOCK=_tile(),
    )
    return codes


def quantize_rows(x: Tensor, kind: str, group: int | None) -> tuple[Tensor, Tensor]:
    """Quantize with a scale for each row, or for each `group` columns of a row.

    x: [T, K] model dtype or float32. kind: as in `quantize_tensor`. group: None, or a power of
    two; the last group may be short. Return codes [T, K] and float32 scales [T, 1] or
    [T, ceil(K / group)]. Raises MoEError for another shape, dtype or group.
    """
    _check_rows(x, group)
    codes, raw = codes_like(x, kind)
    rows, columns = x.shape
    width = columns if group is None else group
    groups = triton.cdiv(columns, width) if columns else 0
    scale = guarded_buffers.empty((rows, groups), dtype=torch.float32, device=x.device)
    tile_columns = triton.next_power_of_2(max(width, 1))
    tile_rows = program_rows(rows, tile_columns, _tile(), is_interpreted=INTERPRETED)
    grid = (triton.cdiv(rows, tile_rows), groups)
    launch(
        *(_encode_rows, grid, x.device, x.contiguous(), raw, scale),
        *(rows, columns, width, groups),
        KIND=kind,
        ROWS=tile_rows,
        WIDE=tile_columns,
        num_warps=8 if tile_rows * tile_columns > 4096 else 4,
    )
    return codes, scale


def tensor_scale(x: Tensor, ids: Tensor, kind: str) -> Tensor:
    """Return the scale [] float32 of the rows of `x` that are in use; 1 if there are none.

    x: [R, n] model dtype or float32. ids: R int32 of any shape; a row with a negative id is not
    in use and not read. kind: as in `quantize_tensor`.
    """
    check_kind(kind)
    amax = _amax_of_parts(x, ids)
    scale = guarded_buffers.empty((), dtype=torch.float32, device=x.device)
    block = tile_length(len(amax), program_columns(1024), few=FEW, is_interpreted=INTERPRETED)
    launch(_scale_of_parts, (1,), x.device, amax, scale, len(amax), KIND=kind, BLOCK=block)
    return scale


def tensor_amax(x: Tensor, ids: Tensor) -> Tensor:
    """Return the largest magnitude [] float32 of the rows of `x` in use; see `tensor_scale`."""
    if x.numel() == 0:
        return x.new_zeros((), dtype=torch.float32)
    return _amax_of_parts(x, ids).amax().view(torch.float32)


def _amax_of_parts(x: Tensor, ids: Tensor) -> Tensor:
    """Return int32 bits of the largest magnitude in each part of the rows of `x` in use.

    Raises MoEError for another number of ids than of rows.
    """
    check_matrix("x", x)
    check_ids("ids", ids, len(x))
    rows, columns = x.shape
    tile_columns = program_columns(columns, 2048)
    tile_rows = program_rows(rows, tile_columns, _tile(), is_interpreted=INTERPRETED)
    parts = triton.cdiv(rows, tile_rows)
    amax = guarded_buffers.empty((parts,), dtype=torch.int32, device=x.device)
    launch(
        *(_amax_rows, (parts,), x.device, x.contiguous(), ids.contiguous(), amax, rows, columns),
        ROWS=tile_rows,
        WIDE=tile_columns,
    )
    return amax


def _check_tensor(x: Tensor, scale: Tensor) -> None:
    check_floats("x", x)
    check_scale("scale", scale)


def _check_rows(x: Tensor, group: int | None) -> None:
    check_matrix("x", x)
    if group is not None:
        check_power_of_two("group", group)


def check_kind(kind: str) -> None:
    """Raise MoEError unless `kind` is a key of MAX."""
    if kind not in MAX:
        raise MoEError(f"kind must be one of {', '.join(MAX)}, not {kind!r}")


def codes_like(x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return a buffer for codes of x, and the view of it that kernels write to."""
    check_kind(kind)
    dtype = rounding.CODE_DTYPE[kind]
    codes = guarded_buffers.empty(x.shape, dtype=dtype, device=x.device)
    return codes, codes if dtype == torch.int8 else codes.view(torch.uint8)


@triton.jit
def _encode_tensor(x_ptr, scale_ptr, code_ptr, size, KIND: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < size, other=0.0).to(tl.float32)
    scaled = tl.div_rn(x, tl.zeros_like(x) + tl.load(scale_ptr))
    tl.store(code_ptr + at, rounding.codes_of(scaled, KIND), mask=at < size)


@triton.jit(do_not_specialize=("rows", "groups"))
def _encode_rows(
    x_ptr, code_ptr, scale_ptr, rows, columns, width, groups,
    KIND: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write the scales, then the codes, of a tile of rows of one group."""
    group = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inner = tl.arange(0, WIDE)
    column = group * width + inner
    live = (row < rows)[:, None] & ((inner < width) & (column < columns))[None, :]
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    x = tl.load(x_ptr + at, mask=live, other=0.0).to(tl.float32)
    scale = rounding.scale_of(tl.max(rounding.magnitude_bits(x), axis=1), KIND)
    tl.store(scale_ptr + row.to(tl.int64) * groups + group, scale, mask=row < rows)
    scaled = tl.div_rn(x, tl.zeros_like(x) + scale[:, None])
    tl.store(code_ptr + at, rounding.codes_of(scaled, KIND), mask=live)


@triton.jit(do_not_specialize=("rows",))
def _amax_rows(
    x_ptr, ids_ptr, amax_ptr, rows, columns, ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write amax[program]: int32 bits of the largest magnitude in its rows that are in use."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    used = tl.load(ids_ptr + row, mask=row < rows, other=-1) >= 0
    largest = tl.zeros([ROWS], tl.int32)
    for start in range(0, columns, WIDE):
        column = start + tl.arange(0, WIDE)
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        live = used[:, None] & (column < columns)[None, :]
        x = tl.load(x_ptr + at, mask=live, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.max(rounding.magnitude_bits(x), axis=1))
    tl.store(amax_ptr + tl.program_id(0), tl.max(largest, axis=0))


@triton.jit(do_not_specialize=("parts",))
def _scale_of_parts(amax_ptr, scale_ptr, parts, KIND: tl.constexpr, BLOCK: tl.constexpr):
    largest = tl.zeros([BLOCK], tl.int32)
    for start in range(0, parts, BLOCK):
        at = start + tl.arange(0, BLOCK)
        largest = tl.maximum(largest, tl.load(amax_ptr + at, mask=at < parts, other=0))
    tl.store(scale_ptr, rounding.scale_of(tl.max(largest, axis=0), KIND))


def quantize_tensor_torch(x: Tensor, scale: Tensor, kind: str) -> Tensor:
    """Compute the result of `quantize_tensor` in torch."""
    check_kind(kind)
    _check_tensor(x, scale)
    return rounding.codes_torch(x.float() / scale, kind)


def quantize_rows_torch(x: Tensor, kind: str, group: int | None) -> tuple[Tensor, Tensor]:
    """Compute the result of `quantize_rows` in torch."""
    check_kind(kind)
    _check_rows(x, group)
    rows, columns = x.shape
    width = columns if group is None else group
    groups = -(-columns // width) if columns else 0
    padded = torch.nn.functional.pad(x.float(), (0, groups * width - columns))
    tiles = padded.view(rows, groups, max(width, 1))
    scale = rounding.scale_torch(tiles.abs().amax(dim=2), kind)
    codes = rounding.codes_torch(tiles / scale[:, :, None], kind)
    return codes.view(rows, groups * width)[:, :columns].contiguous(), scale


def tensor_scale_torch(x: Tensor, ids: Tensor, kind: str) -> Tensor:
    """Compute the result of `tensor_scale` in torch."""
    check_kind(kind)
    check_matrix("x", x)
    check_ids("ids", ids, len(x))
    used = x[ids.reshape(-1) >= 0].float()
    amax = used.abs().amax() if used.numel() else x.new_zeros((), dtype=torch.float32)
    return rounding.scale_torch(amax, kind)
