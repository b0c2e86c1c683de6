"""Quantize with a scale per group of a row's columns: mxfp8, mxfp4, nvfp4, int4 and int8 groups.

The rules are those of `moe.formats.format`. Division is IEEE's, and every number is put on its grid
in float32 before its type changes, so kernel and twin give the same bits on finite input. A NaN in
a group makes its scale NaN; a group of zeros has scale 1, or the smallest scale of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.formats.quant_tensor import SCALE_TORCH_DTYPE, QuantTensor, spread_blocks, spread_scale
from moe.kernels import exponents, rounding
from moe.kernels.arguments import check_floats
from moe.kernels.exponents import divided_torch, exponent_code_torch
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.tiles import program_rows, program_size

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format

SCALE_MAX, SCALE_MIN = 448.0, 2.0**-9  # of e4m3 scales, which are positive


def quantize_groups(x: Tensor, fmt: Format, total: Tensor | None = None) -> QuantTensor:
    """Return x as a tensor of a format with groups of one row's columns.

    x: [R, C] or [e, R, C], any float dtype. total: the global scale, [] or [e] float32, if the
    format has one. Raises MoEError for a format without groups, rows that are no whole bytes of
    codes, and a missing global scale.
    """
    groups = _groups(x, fmt, total)
    rows = x.numel() // max(x.shape[-1], 1)
    codes, scale, zero = _buffers(x, fmt, groups)
    units = rows * groups
    has_many = total is not None and total.numel() > 1
    width = _group(fmt) // fmt.packing
    size = program_size(4096, 1 << 17, is_interpreted=INTERPRETED)
    tile = program_rows(units, _group(fmt), size, is_interpreted=INTERPRETED)
    launch(
        *(_encode_groups, (triton.cdiv(units, tile),), x.device, x.contiguous()),
        *(_raw(codes), _raw(scale), zero, None if total is None else total.contiguous()),
        *(
            units,
            groups,
            x.shape[-1],
            x.shape[-2] if has_many else 0,
        ),
        **_constants(fmt),
        WIDTH=triton.next_power_of_2(width),
        UNITS=tile,
    )
    return QuantTensor(codes=codes, scale=scale, format=fmt, global_scale=total, zero_point=zero)


def global_scale(amax: Tensor, fmt: Format) -> Tensor:
    """Return the global scale float32, `448 * top / amax`, or 1 for zeros; NaN stays NaN."""
    size = amax.float()
    return torch.where(size == 0, 1.0, SCALE_MAX * fmt.top / size)


def _group(fmt: Format) -> int:
    """Return the length of a group. Raises MoEError for a format that has none."""
    if fmt.group is None:
        raise MoEError(
            f"format {fmt.name!r} has blocks of {fmt.block}, not groups of a row's columns: use "
            "moe.kernels.quantize"
        )
    return fmt.group


def _groups(x: Tensor, fmt: Format, total: Tensor | None) -> int:
    """Return the number of groups of a row. Raises MoEError for what cannot be quantized."""
    group = _group(fmt)
    check_floats("x", x)
    if x.ndim < 2:
        raise MoEError(f"x is {list(x.shape)}; it must be [rows, columns], or [e, rows, columns]")
    if x.shape[-1] % fmt.packing:
        raise MoEError(
            f"rows of {x.shape[-1]} columns do not fill bytes of {fmt.packing} {fmt.name} codes: "
            "pad the columns with zeros to an even number"
        )
    if (total is not None) != fmt.global_scale:
        has = "needs a global scale: pass `total`" if fmt.global_scale else "has no global scale"
        raise MoEError(f"format {fmt.name!r} {has}, 448 * {fmt.top:g} / amax as float32")
    lead = x.shape[0] if x.dim() > 2 else 1
    if total is not None and (total.numel() not in (1, lead) or total.dtype != torch.float32):
        raise MoEError(
            f"the global scale has shape {list(total.shape)} of {total.dtype}; pass one float32 "
            f"number, or one for each of the {lead} matrices of {list(x.shape)}"
        )
    return -(-x.shape[-1] // group)


def _buffers(x: Tensor, fmt: Format, groups: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return empty codes, scales and zero points."""
    lead, device = x.shape[:-1], x.device
    dtype = fmt.codec.dtype
    assert dtype is not None
    codes = guarded_buffers.empty((*lead, x.shape[-1] // fmt.packing), dtype=dtype, device=device)
    scale = guarded_buffers.empty(
        (*lead, groups), dtype=SCALE_TORCH_DTYPE[fmt.scale_dtype], device=device
    )
    if not fmt.zero_point:
        return codes, scale, None
    return codes, scale, guarded_buffers.empty((*lead, groups), dtype=torch.uint8, device=device)


def _raw(t: Tensor) -> Tensor:
    """Return fp8 as bytes, and any other tensor as it is."""
    return t.view(torch.uint8) if t.dtype == torch.float8_e4m3fn else t


def _constants(fmt: Format) -> dict[str, Any]:
    """Return the kernel's compile-time arguments that follow from the format."""
    rule = fmt.scale_rounding or fmt.scale_dtype
    return {
        "GRID": "e4m3" if fmt.grid == "e4m3" else "e2m1" if fmt.grid == "e2m1" else "integer",
        "SCALE": "zero" if fmt.zero_point else rule,
        "LOW": fmt.lowest,
        "TOP": fmt.top,
        "SCALE_TOP": fmt.scale_top or fmt.top,
        "BIAS": 8 if fmt.packing > 1 and fmt.lowest < 0 and fmt.grid != "e2m1" else 0,
        "EXPONENT": int(torch.frexp(torch.tensor(fmt.top)).exponent) - 1,
        "GROUP": _group(fmt),
        "PACKED": fmt.packing > 1,
    }


@triton.jit
def _codes(v, zero, GRID: tl.constexpr, LOW: tl.constexpr, TOP: tl.constexpr, BIAS: tl.constexpr):
    """Return int32 codes of v, in units of the scale."""
    if GRID == "e2m1":
        return rounding.e2m1_codes(v)
    elif GRID == "e4m3":
        return rounding.e4m3_codes(v).to(tl.int32)
    else:
        return rounding.integer_codes(v + zero, LOW, TOP) + BIAS


@triton.jit(do_not_specialize=("units", "groups"))
def _encode_groups(
    x_ptr, code_ptr, scale_ptr, zero_ptr, total_ptr, units, groups, columns, rows_of_total,
    GRID: tl.constexpr, SCALE: tl.constexpr, LOW: tl.constexpr, TOP: tl.constexpr,
    SCALE_TOP: tl.constexpr, BIAS: tl.constexpr, EXPONENT: tl.constexpr, GROUP: tl.constexpr,
    PACKED: tl.constexpr, WIDTH: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Write scales and codes of UNITS groups. rows_of_total: rows with one global scale; 0: all."""
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    used = unit < units
    row = (unit // groups).to(tl.int64)
    byte = tl.arange(0, WIDTH)
    step = 2 if PACKED else 1
    column = (unit % groups * GROUP)[:, None] + byte[None, :] * step
    live = used[:, None] & (byte * step < GROUP)[None, :] & (column < columns)
    at = row[:, None] * columns + column
    low = tl.load(x_ptr + at, mask=live, other=0.0).to(tl.float32)
    high = tl.load(x_ptr + at + 1, mask=live, other=0.0).to(tl.float32) if PACKED else low

    zero = tl.zeros([UNITS], tl.float32)
    bits = tl.maximum(rounding.magnitude_bits(low), rounding.magnitude_bits(high))
    amax = tl.max(bits, axis=1).to(tl.float32, bitcast=True)  # as integers NaN is largest
    if SCALE == "zero":
        least = tl.minimum(tl.min(tl.minimum(low, high), axis=1), 0.0)
        largest = tl.maximum(tl.max(tl.maximum(low, high), axis=1), 0.0)
        scale = tl.div_rn(largest - least, zero + TOP)
        scale = tl.where(scale == 0.0, 1.0, scale)
        scale = tl.where(amax == amax, scale, amax)  # least and largest skip a NaN
        zero = rounding.integer_codes(tl.div_rn(-least, scale), 0.0, TOP).to(tl.float32)
        tl.store(zero_ptr + unit, zero.to(tl.int32).to(tl.uint8), mask=used)
        tl.store(scale_ptr + unit, scale, mask=used)
    elif SCALE == "f32":
        scale = tl.div_rn(amax, zero + SCALE_TOP)
        scale = tl.where(scale == 0.0, 1.0, scale)
        tl.store(scale_ptr + unit, scale, mask=used)
    elif SCALE == "e4m3":
        matrix = row // rows_of_total if rows_of_total > 0 else row * 0
        total = tl.load(total_ptr + matrix, mask=used, other=1.0)
        exact = tl.div_rn(amax, zero + TOP) * total
        kept = tl.where(exact < 0.001953125, 0.001953125, exact)  # 2^-9
        block = rounding.round_to_e4m3(kept)
        tl.store(scale_ptr + unit, rounding.e4m3_codes(kept), mask=used)
        scale = tl.div_rn(block, total)
    else:
        code = exponents.exponent_code(amax, SCALE, TOP, EXPONENT)
        tl.store(scale_ptr + unit, code.to(tl.uint8), mask=used)
        scale = exponents.power_of_two(code)

    spread = tl.zeros_like(low) + scale[:, None]
    codes = _codes(tl.div_rn(low, spread), zero[:, None], GRID, LOW, TOP, BIAS)
    if PACKED:
        upper = _codes(tl.div_rn(high, spread), zero[:, None], GRID, LOW, TOP, BIAS)
        codes |= upper << 4
    place = row[:, None] * (columns // step) + column // step
    tl.store(code_ptr + place, codes.to(code_ptr.dtype.element_ty), mask=live)


@dataclass(frozen=True, kw_only=True)
class _Range:
    """Hold the extremes of each group, [*, G] float32; NaN where the group has one."""

    amax: Tensor
    least: Tensor  # at most 0
    largest: Tensor  # at least 0


def quantize_groups_torch(x: Tensor, fmt: Format, total: Tensor | None = None) -> QuantTensor:
    """Compute the result of `quantize_groups` in torch."""
    groups, group = _groups(x, fmt, total), _group(fmt)
    values = x.float()
    padded = torch.nn.functional.pad(values, (0, groups * group - x.shape[-1]))
    tiles = padded.view(*x.shape[:-1], groups, group)
    extremes = _Range(
        amax=tiles.abs().amax(dim=-1),
        least=tiles.amin(dim=-1).clamp(max=0),
        largest=tiles.amax(dim=-1).clamp(min=0),
    )
    scale, zero = _scale_torch(extremes, fmt, total)
    tensor = QuantTensor(
        codes=guarded_buffers.empty(
            (*x.shape[:-1], x.shape[-1] // fmt.packing), dtype=torch.uint8, device=x.device
        ),
        scale=scale,
        format=fmt,
        global_scale=total,
        zero_point=zero,
    )
    ratio = values / spread_scale(tensor)
    if zero is not None:
        ratio = ratio + spread_blocks(tensor, zero.float())
    return tensor.replace(codes=_encode_torch(ratio, fmt))


def _encode_torch(ratio: Tensor, fmt: Format) -> Tensor:
    if fmt.grid == "e4m3":
        return rounding.e4m3_codes_torch(ratio).view(torch.float8_e4m3fn)
    return fmt.codec.encode(ratio)


def _scale_torch(
    extremes: _Range, fmt: Format, total: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the scales of groups, in the dtype of the format's scales, and zero points."""
    amax = extremes.amax
    if fmt.zero_point:
        scale = divided_torch(extremes.largest - extremes.least, fmt.top)
        scale = torch.where(scale == 0, 1.0, scale)
        zero = (-extremes.least / scale).clamp(0, fmt.top).round().nan_to_num(nan=0.0)
        return scale, zero.to(torch.uint8)
    if fmt.scale_dtype == "e4m3":
        assert total is not None
        exact = divided_torch(amax, fmt.top) * total.reshape(
            *total.shape, *[1] * (amax.dim() - total.dim())
        )
        codes = rounding.e4m3_codes_torch(exact.clamp(min=SCALE_MIN))
        return codes.view(torch.float8_e4m3fn), None
    if fmt.scale_dtype == "e8m0":
        return exponent_code_torch(amax, fmt), None
    scale = divided_torch(amax, fmt.scale_top or fmt.top)
    return torch.where(scale == 0, 1.0, scale), None
