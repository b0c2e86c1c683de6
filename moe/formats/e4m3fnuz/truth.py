"""Define the grid of fp8 e4m3fnuz for the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.formats.grids import float_step

if TYPE_CHECKING:
    from torch import Tensor


class E4M3FNUZTruth:
    """Define a grid with 3 stored bits of mantissa and subnormal multiples of 2**-10."""

    def step_of(self, x: Tensor) -> Tensor:
        """Return the distance between neighbours of the grid at each value, of x's shape."""
        return float_step(x, bits=4, smallest=-10)
