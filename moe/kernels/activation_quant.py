"""Apply the activation and quantize the result in one kernel, contiguous or batched by expert.

The activation's values stay in registers between the two steps: in float32, or rounded to a dtype
first, as a member that stores them does. In the latter case codes and scales are those of
`moe.kernels.activation` followed by `moe.kernels.quantize`. Kernel and twin compute functions such
as exp by different code, so codes next to a rounding tie, and scales by one float32 step, may
differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels import rounding
from moe.kernels.activation import (
    activated,
    activated_torch,
    check_counts,
    constants,
    in_use,
    row_of,
    used_rows,
    width_of,
)
from moe.kernels.arguments import check_ids, check_matrix, check_power_of_two, check_scale
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.quantize import check_kind, codes_like, quantize_rows_torch, quantize_tensor_torch
from moe.kernels.tiles import program_columns, program_rows, program_size

if TYPE_CHECKING:
    from torch import Tensor


def activate_quantize(
    h: Tensor,
    ids: Tensor | None = None,
    *,
    counts: Tensor | None = None,
    activation: str,
    kind: str,
    group: int | None = None,
    scale: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Return codes [R, n] of the activation of each row, and their scales.

    h: [R, 2n], [gate; up], or [R, n] if the activation is not gated; ids: as in `activate`. Or h:
    [e, C, 2n] or [e, C, n] with counts: [e] int32 rows in use of each expert; then codes are
    [e, C, n] and scales have these rows, too. Codes and scales of rows that are not in use are not
    written. kind: as in `quantize_tensor`. scale: [] float32, the static scale of all values; None:
    one per row [R, 1], or per `group` columns of a row [R, ceil(n / group)], a power of two. dtype:
    to which the activation is rounded before it is quantized. Raises MoEError for a group beside a
    static scale, and ids or counts that do not fit the rows.
    """
    used: dict[str, Any]
    if counts is None:
        _check_rows(h, ids)
        used = {"ids_ptr": None if ids is None else ids.contiguous()}
    else:
        check_counts(h, counts)
        used = {"counts_ptr": counts.contiguous(), "capacity": h.shape[1]}
    return _launch(h, activation, kind, (group, scale, dtype), used)


_Scaling = tuple[int | None, "Tensor | None", torch.dtype]


def _launch(
    h: Tensor, activation: str, kind: str, scaling: _Scaling, used: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return codes and scales. used: which rows are in use, by ids or by counts."""
    group, given, dtype = scaling
    columns = width_of(h, row_of(activation))
    lead, rows = h.shape[:-1], h.numel() // max(h.shape[-1], 1)
    _check_scaling(group, given)
    codes, raw = codes_like(h[..., :columns], kind)  # of that shape
    width = program_columns(columns) if given is not None else group or columns
    groups = triton.cdiv(columns, width) if columns else 0
    scale = given
    if scale is None:
        scale = guarded_buffers.empty((*lead, groups), dtype=torch.float32, device=h.device)
    wide = triton.next_power_of_2(max(width, 1))
    size = program_size(4096, 1 << 17, is_interpreted=INTERPRETED)
    tile_rows = program_rows(rows, wide, size, is_interpreted=INTERPRETED)
    launch(
        *(_activate_encode, (triton.cdiv(rows, tile_rows), groups), h.device, h.contiguous()),
        *(used.get("ids_ptr"), used.get("counts_ptr"), raw, scale),
        *(rows, columns, used.get("capacity", 1), width, groups),
        KIND=kind,
        STATIC=given is not None,
        ROUNDED=_TRITON_DTYPE[dtype],
        ROWS=tile_rows,
        WIDE=wide,
        **constants(row_of(activation)),
        num_warps=8 if tile_rows * wide > 4096 else 4,
    )
    return codes, scale


_TRITON_DTYPE = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


def _check_rows(h: Tensor, ids: Tensor | None) -> None:
    check_matrix("h", h)
    if ids is not None:
        check_ids("ids", ids, len(h))


def _check_scaling(group: int | None, scale: Tensor | None) -> None:
    if scale is not None and group is not None:
        raise MoEError(
            f"a static scale is for all values, and group is {group}; leave one of both out"
        )
    if scale is not None:
        check_scale("scale", scale)
    if group is not None:
        check_power_of_two("group", group)


@triton.jit(do_not_specialize=("rows", "groups", "capacity"))
def _activate_encode(
    h_ptr, ids_ptr, counts_ptr, code_ptr, scale_ptr, rows, columns, capacity, width, groups,
    KIND: tl.constexpr, STATIC: tl.constexpr, ROUNDED: tl.constexpr, ROWS: tl.constexpr,
    WIDE: tl.constexpr, FUNCTION: tl.constexpr, GATED: tl.constexpr, ALPHA: tl.constexpr,
    BETA: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    """Write the scales, unless they are static, then the codes, of a tile of rows of one group."""
    group = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inner = tl.arange(0, WIDE)
    column = group * width + inner
    used = in_use(row, rows, ids_ptr, counts_ptr, capacity)
    live = used[:, None] & ((inner < width) & (column < columns))[None, :]
    value = activated(
        h_ptr, row, column, live, columns, FUNCTION, GATED, ALPHA, BETA, LIMIT
    )  # fmt: skip
    value = tl.where(live, value, 0.0)
    value = rounding.to_model_dtype(value, ROUNDED).to(tl.float32)
    if STATIC:
        scale = tl.zeros([ROWS], tl.float32) + tl.load(scale_ptr)
    else:
        scale = rounding.scale_of(tl.max(rounding.magnitude_bits(value), axis=1), KIND)
        tl.store(scale_ptr + row * groups + group, scale, mask=used)
    scaled = tl.div_rn(value, tl.zeros_like(value) + scale[:, None])
    at = row[:, None] * columns + column[None, :]
    tl.store(code_ptr + at, rounding.codes_of(scaled, KIND), mask=live)


def activate_quantize_torch(
    h: Tensor,
    ids: Tensor | None = None,
    *,
    counts: Tensor | None = None,
    activation: str,
    kind: str,
    group: int | None = None,
    scale: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Compute the result of `activate_quantize` in torch."""
    used = torch.ones(len(h), dtype=torch.bool, device=h.device)
    if counts is not None:
        check_counts(h, counts)
        used = used_rows(h, counts)
    else:
        _check_rows(h, ids)
    if counts is None and ids is not None:
        used = ids.reshape(-1) >= 0
    return _twin(h, used, activation, kind, (group, scale, dtype))


def _twin(
    h: Tensor, used: Tensor, activation: str, kind: str, scaling: _Scaling
) -> tuple[Tensor, Tensor]:
    """Return codes and scales of the rows in use. used: bool, as h without its columns."""
    group, given, dtype = scaling
    check_kind(kind)
    _check_scaling(group, given)
    value = activated_torch(h[used], activation).to(dtype).float()
    codes = guarded_buffers.empty(
        (*h.shape[:-1], value.shape[-1]), dtype=rounding.CODE_DTYPE[kind], device=h.device
    )
    raw = codes.view(torch.uint8)
    if given is not None:
        raw[used] = quantize_tensor_torch(value, given, kind).view(torch.uint8)
        return codes, given
    of_used, scale_of_used = quantize_rows_torch(value, kind, group)
    shape = (*h.shape[:-1], scale_of_used.shape[-1])
    scale = guarded_buffers.empty(shape, dtype=torch.float32, device=h.device)
    raw[used], scale[used] = of_used.view(torch.uint8), scale_of_used
    return codes, scale
