"""Apply the activation to the rows of the first product, contiguous or batched by expert.

A row of the first product is [gate; up], or x alone if the activation is not gated. All is computed
in float32 from the row's parameters (`moe.activations.base.ActivationSpec`) and rounded once.
`moe.kernels.activation_quant` quantizes in the same kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.activations import ACTIVATIONS
from moe.errors import MoEError
from moe.kernels import rounding
from moe.kernels.arguments import check_floats, check_ids, check_matrix
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.tiles import program_columns, program_rows, program_size

if TYPE_CHECKING:
    from torch import Tensor

    from moe.activations.base import ActivationSpec

FUNCTIONS = ("swish", "gelu", "gelu_tanh", "relu2")


def activate(
    h: Tensor,
    ids: Tensor | None = None,
    dtype: torch.dtype | None = None,
    *,
    activation: str = "silu",
) -> Tensor:
    """Return the activation [R, n] of each row, rounded once.

    h: [R, 2n], [gate; up] along 2n; [R, n] if the activation is not gated. ids: R int32 of any
    shape; a row with a negative id is neither read nor written; None: all rows are in use. dtype:
    of the result; None: that of h. activation: a row of `moe.activations`; raises MoEError if it
    names no function of FUNCTIONS, and for another number of ids.
    """
    _check(h, ids)
    out = _like(h, dtype, activation)
    _launch(h, out, activation, {"ids_ptr": None if ids is None else ids.contiguous()})
    return out


def activate_batched(
    h: Tensor,
    counts: Tensor,
    dtype: torch.dtype | None = None,
    *,
    activation: str = "silu",
) -> Tensor:
    """Return the activation [e, C, n] of each expert's rows, rounded once.

    h: [e, C, 2n], or [e, C, n] if not gated; C rows of room for each expert. counts: [e] int32 rows
    in use; the rows after them are neither read nor written. dtype, activation: as in `activate`.
    """
    check_counts(h, counts)
    out = _like(h, dtype, activation)
    _launch(h, out, activation, {"counts_ptr": counts.contiguous(), "capacity": h.shape[1]})
    return out


def _check(h: Tensor, ids: Tensor | None) -> None:
    check_matrix("h", h)
    if ids is not None:
        check_ids("ids", ids, len(h))


def check_counts(h: Tensor, counts: Tensor) -> None:
    """Raise MoEError unless h are values [e, C, ...] and counts are [e] int32."""
    check_floats("h", h)
    if h.ndim != 3 or counts.shape != h.shape[:1] or counts.dtype != torch.int32:
        raise MoEError(
            f"batched rows are {list(h.shape)} with counts {list(counts.shape)} of "
            f"{counts.dtype}; they must be [e, capacity, columns] with [e] of torch.int32"
        )


def width_of(h: Tensor, row: ActivationSpec) -> int:
    """Return n, the columns of the result. Raises MoEError for an odd [gate; up]."""
    if row.gated and h.shape[-1] % 2:
        raise MoEError(
            f"activation {row.name!r} splits rows into gate and up, but h has {h.shape[-1]} "
            "columns, which is odd; pass [gate; up]"
        )
    return int(h.shape[-1] // 2 if row.gated else h.shape[-1])


def row_of(activation: str) -> ActivationSpec:
    """Return the row of an activation. Raises MoEError if the kernels have no such function."""
    row = ACTIVATIONS.row(activation)
    if row.function not in FUNCTIONS:
        raise MoEError(
            f"the kernels do not compute activation {activation!r}, whose row has function "
            f"{row.function!r}; they know {', '.join(FUNCTIONS)}: use experts that call the "
            "layer's own activation"
        )
    return row


def constants(row: ActivationSpec) -> dict[str, Any]:
    """Return the compile-time arguments by which a kernel computes the activation."""
    return {
        "FUNCTION": row.function,
        "GATED": row.gated,
        "ALPHA": row.alpha,
        "BETA": row.beta,
        "LIMIT": row.limit,
    }


def _like(h: Tensor, dtype: torch.dtype | None, activation: str) -> Tensor:
    shape = (*h.shape[:-1], width_of(h, row_of(activation)))
    return guarded_buffers.empty(shape, dtype=dtype or h.dtype, device=h.device)


def _launch(h: Tensor, out: Tensor, activation: str, used: dict[str, Any]) -> None:
    """Fill out [..., n] from h. used: which rows are in use, by ids or by counts."""
    columns = out.shape[-1]
    rows = h.numel() // max(h.shape[-1], 1)
    tile_columns = program_columns(columns)
    size = program_size(4096, 1 << 17, is_interpreted=INTERPRETED)  # elements of the output
    tile_rows = program_rows(rows, tile_columns, size, is_interpreted=INTERPRETED)
    grid = (triton.cdiv(rows, tile_rows), triton.cdiv(columns, tile_columns))
    launch(
        *(_activate, grid, h.device, h.contiguous(), used.get("ids_ptr")),
        *(used.get("counts_ptr"), out, rows, columns, used.get("capacity", 1)),
        ROWS=tile_rows,
        WIDE=tile_columns,
        **constants(row_of(activation)),
    )


@triton.jit
def _times_sigmoid(x, t):
    """Return x * sigmoid(t) in float32; exp never overflows."""
    z = tl.exp(-tl.abs(t))
    return x * tl.where(t < 0.0, z, 1.0) / (1.0 + z)


@triton.jit
def _gelu(x):
    """Return GELU in float32 by the error function."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def function_of(x, FUNCTION: tl.constexpr, ALPHA: tl.constexpr):
    """Return f(x), float32."""
    if FUNCTION == "swish":
        return _times_sigmoid(x, x if ALPHA == 1.0 else x * ALPHA)
    elif FUNCTION == "gelu":
        return _gelu(x)
    elif FUNCTION == "gelu_tanh":  # (1 + tanh(t)) / 2 = sigmoid(2t), which avoids cancellation
        return _times_sigmoid(x, 1.5957691216057308 * (x + 0.044715 * x * x * x))
    else:
        positive = tl.where(x < 0.0, 0.0, x)  # NaN stays NaN
        return positive * positive


@triton.jit
def activated(
    h_ptr, row, column, live, columns,
    FUNCTION: tl.constexpr, GATED: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    LIMIT: tl.constexpr,
):  # fmt: skip
    """Return the activation [ROWS, WIDE] float32 of these rows and columns; 0 where not live.

    row: [ROWS] int64. column: [WIDE]. live: [ROWS, WIDE]. columns: n.
    """
    width = 2 * columns if GATED else columns
    at = row[:, None] * width + column[None, :]
    gate = tl.load(h_ptr + at, mask=live, other=0.0).to(tl.float32)
    if LIMIT is not None:
        gate = tl.where(gate > LIMIT, LIMIT, gate)  # a comparison with NaN is false, so NaN stays
    value = function_of(gate, FUNCTION, ALPHA)
    if GATED:
        up = tl.load(h_ptr + at + columns, mask=live, other=0.0).to(tl.float32)
        if LIMIT is not None:
            up = tl.where(up > LIMIT, LIMIT, tl.where(up < -LIMIT, -LIMIT, up))
        value *= up if BETA == 0.0 else up + BETA
    return value


@triton.jit
def in_use(row, rows, ids_ptr, counts_ptr, capacity):
    """Return [ROWS] bool: a row within `rows` whose id is not negative, or within its count."""
    used = row < rows
    if ids_ptr is not None:
        used &= tl.load(ids_ptr + row, mask=used, other=-1) >= 0
    if counts_ptr is not None:
        used &= row % capacity < tl.load(counts_ptr + row // capacity, mask=used, other=0)
    return used


@triton.jit(do_not_specialize=("rows", "capacity"))
def _activate(
    h_ptr, ids_ptr, counts_ptr, out_ptr, rows, columns, capacity,
    ROWS: tl.constexpr, WIDE: tl.constexpr, FUNCTION: tl.constexpr, GATED: tl.constexpr,
    ALPHA: tl.constexpr, BETA: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    used = in_use(row, rows, ids_ptr, counts_ptr, capacity)
    live = used[:, None] & (column < columns)[None, :]
    value = activated(
        h_ptr, row, column, live, columns, FUNCTION, GATED, ALPHA, BETA, LIMIT
    )  # fmt: skip
    rounded = rounding.to_model_dtype(value, out_ptr.dtype.element_ty)
    tl.store(out_ptr + row[:, None] * columns + column[None, :], rounded, mask=live)


def activate_torch(
    h: Tensor,
    ids: Tensor | None = None,
    dtype: torch.dtype | None = None,
    *,
    activation: str = "silu",
) -> Tensor:
    """Compute the result of `activate` in torch."""
    _check(h, ids)
    out = _like(h, dtype, activation)
    used = torch.ones(len(h), dtype=torch.bool, device=h.device)
    if ids is not None:
        used = ids.reshape(-1) >= 0
    out[used] = activated_torch(h[used], activation).to(out.dtype)
    return out


def activate_batched_torch(
    h: Tensor,
    counts: Tensor,
    dtype: torch.dtype | None = None,
    *,
    activation: str = "silu",
) -> Tensor:
    """Compute the result of `activate_batched` in torch."""
    check_counts(h, counts)
    out = _like(h, dtype, activation)
    used = used_rows(h, counts)
    out[used] = activated_torch(h[used], activation).to(out.dtype)
    return out


def used_rows(h: Tensor, counts: Tensor) -> Tensor:
    """Return [e, C] bool, the rows of h [e, C, ...] that are in use. counts: [e]."""
    return torch.arange(h.shape[1], device=h.device)[None, :] < counts[:, None]


def activated_torch(h: Tensor, activation: str) -> Tensor:
    """Return the activation [R, n] of h [R, 2n] or [R, n] in float32."""
    row = row_of(activation)
    x = h.float()
    gate, *others = torch.split(x, width_of(h, row), dim=-1)
    if row.limit is not None:
        gate = gate.clamp(max=row.limit)
    value = _function_torch(gate, row)
    if not others:
        return value
    up = others[0] if row.limit is None else others[0].clamp(-row.limit, row.limit)
    return value * (up + row.beta)


def _function_torch(x: Tensor, row: ActivationSpec) -> Tensor:
    if row.function == "swish":
        return x * (row.alpha * x).sigmoid()
    if row.function == "gelu":
        return 0.5 * x * (1 + (x * 0.7071067811865476).erf())
    if row.function == "gelu_tanh":
        return x * (1.5957691216057308 * (x + 0.044715 * x**3)).sigmoid()
    return x.clamp(min=0).square()
