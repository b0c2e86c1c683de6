"""Define the grid of fp4 e2m1 for the reference, and read its codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.formats.grids import float_step

if TYPE_CHECKING:
    from torch import Tensor


class E2M1Truth:
    """Define a grid with one stored bit of mantissa and subnormal multiples of one half."""

    def step_of(self, x: Tensor) -> Tensor:
        """Return the distance between neighbours of the grid at each value, of x's shape."""
        return float_step(x, bits=2, smallest=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return float32 [..., 2 * B] from bytes [..., B] of two codes, the low half first."""
        pair = torch.stack([codes.int() % 16, codes.int() // 16], dim=-1).flatten(-2)
        exponent, mantissa = pair // 2 % 4, pair % 2
        scale = torch.exp2((exponent.clamp(min=1) - 1).float())  # 0 shares the exponent of 1
        size = ((exponent > 0).float() + mantissa / 2) * scale
        return torch.where(pair >= 8, -size, size)
