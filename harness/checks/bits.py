"""Compare values by their bits: NaN equals the same NaN, and 0 differs from -0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits_of(x: Tensor) -> Tensor:
    """Return the bits of x as integers, in the same shape."""
    return x.contiguous().view(_KINDS[x.element_size()])


def row_sums(x: Tensor) -> Tensor:
    """Return [r] int64 checksums of the rows of x [r, C]; each column has a factor of its own."""
    columns = torch.arange(x.shape[1], dtype=torch.int64, device=x.device)
    return (bits_of(x).long() * (2 * columns * columns + 2 * columns + 1)).sum(dim=1)
