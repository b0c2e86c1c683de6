"""The grid of fp8 e4m3, for the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.formats.grids import float_step

if TYPE_CHECKING:
    from torch import Tensor


class E4M3Truth:
    def step_of(self, x: Tensor) -> Tensor:
        """The distance between neighbours of the grid at each value."""
        return float_step(x, bits=4, smallest=-9)
