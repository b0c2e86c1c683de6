"""Check what kernels are given: they would read past a tensor that is too short.

Only shapes and dtypes are looked at, so nothing waits for a GPU. Each error names the argument,
what it is and what it must be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.errors import MoEError

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
_IDS = (torch.int32, torch.int64)


def check_matrix(name: str, x: Tensor) -> None:
    """Raise MoEError unless x is a matrix of numbers that kernels compute with."""
    if x.ndim != 2:
        raise MoEError(f"{name} is {list(x.shape)}; it must be [rows, columns]: reshape it")
    check_floats(name, x)


def check_floats(name: str, x: Tensor) -> None:
    """Raise MoEError for a dtype that kernels do not read as values."""
    if x.dtype not in _FLOATS:
        known = ", ".join(map(str, _FLOATS))
        raise MoEError(f"{name} is of {x.dtype}; it must be one of {known}: convert it first")


def check_ids(name: str, ids: Tensor, rows: int | None = None) -> None:
    """Raise MoEError unless ids are integers, as many as there are rows."""
    if ids.dtype not in _IDS:
        raise MoEError(f"{name} is of {ids.dtype}; ids must be torch.int32")
    if rows is not None and ids.numel() != rows:
        raise MoEError(f"{name} is {list(ids.shape)}; it must have one id for each of {rows} rows")


def check_scale(name: str, scale: Tensor) -> None:
    """Raise MoEError unless it is one float32 number."""
    if scale.numel() != 1 or scale.dtype != torch.float32:
        raise MoEError(
            f"{name} is {list(scale.shape)} of {scale.dtype}; it must be one torch.float32 number"
        )


def check_power_of_two(name: str, value: int) -> None:
    """Raise MoEError for a size that is no tile: a kernel has 1, 2, 4, ... of them."""
    if value < 1 or value & (value - 1):
        raise MoEError(f"{name} is {value}; it must be a power of two, such as 16 or 128")
