"""Lend buffers to calls of different sizes: each is made once, and used again when it is back.

A buffer is as large as the largest tensor that was taken of it; a call gets a view of exactly the
size that it asks for. Inside `moe.guarded_buffers.poisoned()` that view is poisoned and guarded
each time, so that what an earlier, larger call left is neither read nor relied on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe import guarded_buffers

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Hold a tensor and the bytes in which it lies."""

    tensor: Tensor
    raw: Tensor


class Workspace:
    """Hold buffers that nobody uses. Two calls that are under way never share one."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Lease:
        """Return an uninitialised tensor; nobody else gets its memory until `give_back`."""
        size = guarded_buffers.guarded_size(math.prod(shape) * dtype.itemsize)
        fitting = [raw for raw in self._free if raw.device == device and len(raw) >= size]
        if fitting:
            raw = min(fitting, key=len)
            self._free = [other for other in self._free if other is not raw]
        else:
            raw = torch.empty(size, dtype=torch.uint8, device=device)
            if self._free:  # it takes the place of the smallest, which was too small
                smallest = min(self._free, key=len)
                self._free = [other for other in self._free if other is not smallest]
        return Lease(tensor=guarded_buffers.view_of(raw, shape, dtype), raw=raw)

    def give_back(self, lease: Lease) -> None:
        """Let later calls use the memory. Its tensor must not be used any more."""
        self._free.append(lease.raw)
