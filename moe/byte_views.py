"""View tensors whose elements are bytes as uint8: not every operation on every device takes fp8."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def as_bytes(t: Tensor) -> Tensor:
    """Return t as uint8 if its elements have one byte, otherwise as it is. Nothing is copied."""
    return t.view(torch.uint8) if t.element_size() == 1 else t


def joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return tensors of one dtype, fp8 among them, as one. parts: at least one."""
    return torch.cat([as_bytes(part) for part in parts], dim=dim).view(parts[0].dtype)
