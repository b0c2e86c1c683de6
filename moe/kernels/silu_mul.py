"""Multiply the activation of the gate by up, on the rows of the first product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels import rounding
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.tiles import program_columns, program_size

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor


def _tile() -> int:
    """Return the elements of the output that one program handles."""
    return program_size(4096, 1 << 17, is_interpreted=INTERPRETED)


def silu_mul(
    h: Tensor,
    ids: Tensor | None = None,
    dtype: torch.dtype | None = None,
    *,
    activation: str = "silu",
) -> Tensor:
    """Return f(gate) * up [R, n], computed in float32 and rounded once.

    h: [R, 2n], [gate; up] along 2n. ids: R int32 of any shape; a row with a negative id is
    neither read nor written; None: all rows are in use. dtype: of the result; None: that of h.
    activation: "silu" or "gelu_tanh"; raises MoEError for any other.
    """
    _twin(activation)
    rows, columns = h.shape[0], h.shape[1] // 2
    out = guarded_buffers.empty((rows, columns), dtype=dtype or h.dtype, device=h.device)
    tile_columns = program_columns(columns)
    tile_rows = max(1, min(triton.next_power_of_2(max(rows, 1)), _tile() // tile_columns))
    grid = (triton.cdiv(rows, tile_rows), triton.cdiv(columns, tile_columns))
    flat = None if ids is None else ids.contiguous()
    launch(
        *(_silu_mul, grid, h.device, h.contiguous(), flat, out, rows, columns),
        ROWS=tile_rows,
        WIDE=tile_columns,
        GELU_TANH=activation == "gelu_tanh",
    )
    return out


@triton.jit
def _silu(x):
    """Return SiLU in float32; exp never overflows."""
    z = tl.exp(-tl.abs(x))
    return x * tl.where(x < 0.0, z, 1.0) / (1.0 + z)


@triton.jit
def _gelu_tanh(x):
    """Return GELU in float32, by (1 + tanh(t)) / 2 = sigmoid(2t), which avoids cancellation."""
    double_t = 1.5957691216057308 * (x + 0.044715 * x * x * x)
    z = tl.exp(-tl.abs(double_t))
    return x * tl.where(x < 0.0, z, 1.0) / (1.0 + z)


@triton.jit
def _silu_mul(
    h_ptr, ids_ptr, out_ptr, rows, columns,
    ROWS: tl.constexpr, WIDE: tl.constexpr, GELU_TANH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    used = row < rows
    if ids_ptr is not None:
        used &= tl.load(ids_ptr + row, mask=used, other=-1) >= 0
    live = used[:, None] & (column < columns)[None, :]
    at = row.to(tl.int64)[:, None] * (2 * columns) + column[None, :]
    gate = tl.load(h_ptr + at, mask=live, other=0.0).to(tl.float32)
    up = tl.load(h_ptr + at + columns, mask=live, other=0.0).to(tl.float32)
    act = _gelu_tanh(gate) if GELU_TANH else _silu(gate)
    value = rounding.to_model_dtype(act * up, out_ptr.dtype.element_ty)
    tl.store(out_ptr + row.to(tl.int64)[:, None] * columns + column[None, :], value, mask=live)


def silu_mul_torch(
    h: Tensor,
    ids: Tensor | None = None,
    dtype: torch.dtype | None = None,
    *,
    activation: str = "silu",
) -> Tensor:
    """Compute the result of `silu_mul` in torch."""
    function = _twin(activation)
    rows, columns = h.shape[0], h.shape[1] // 2
    out = guarded_buffers.empty((rows, columns), dtype=dtype or h.dtype, device=h.device)
    used = slice(None) if ids is None else ids.reshape(-1) >= 0
    gate, up = h[used].float().split(columns, dim=1)
    out[used] = (function(gate) * up).to(out.dtype)
    return out


def _silu_torch(x: Tensor) -> Tensor:
    return x * x.sigmoid()


def _gelu_tanh_torch(x: Tensor) -> Tensor:
    return x * (1.5957691216057308 * (x + 0.044715 * x**3)).sigmoid()


_TWINS = {"silu": _silu_torch, "gelu_tanh": _gelu_tanh_torch}


def _twin(activation: str) -> Callable[[Tensor], Tensor]:
    if activation not in _TWINS:
        known = ", ".join(_TWINS)
        raise MoEError(f"the kernel does not support activation {activation!r}, only {known}")
    return _TWINS[activation]
