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


def differing_elements(first: Tensor, second: Tensor, when: str) -> str | None:
    """Return how many elements of two outputs [T, K] of one shape differ in a bit; None: none does.

    when: said after "differ". The first one that differs is given with both values.
    """
    differing = (bits_of(first) != bits_of(second)).nonzero()
    if len(differing) == 0:
        return None
    row, column = (int(i) for i in differing[0])
    values = float(first[row, column]), float(second[row, column])
    return (
        f"{len(differing)} of {first.numel()} elements differ {when}, first [{row}, {column}]: "
        f"{values[0]:.9g}, then {values[1]:.9g}"
    )


def row_sums(x: Tensor) -> Tensor:
    """Return [r] int64 checksums of the rows of x [r, C]; each column has a factor of its own."""
    columns = torch.arange(x.shape[1], dtype=torch.int64, device=x.device)
    return (bits_of(x).long() * (2 * columns * columns + 2 * columns + 1)).sum(dim=1)
