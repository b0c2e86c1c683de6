"""Hold how well each combination of roundings reproduces the outputs of some cases. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe.numerics import Numerics
    from moe.router_numerics import RouterNumerics

# Places whose values are tried, in the order of computation.
PLACES = (
    *("gemm1", "activated_gate", "activation", "weight_on", "weight_dtype", "weighted"),
    *("expert", "combine", "combine_order"),
)
# Rounding steps that may remain in a case that is reproduced. Values that the noise of float32 sums
# moves leave less than 0.01; a rounding that is missing or too many leaves 0.2 or more.
REPRODUCED = 0.1


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Hold how far the outputs are from an emulation of one combination, for each case.

    numerics: states every one of PLACES, and nothing else. squares: mean square of the
    difference, in squared steps of the layer's dtype at the size of the case's outputs; inf where
    an output is not finite. unequal: output values that differ in any bit.
    """

    numerics: Numerics
    squares: tuple[float, ...]
    unequal: tuple[int, ...]

    @property
    def residual(self) -> float:
        """Return the root mean square of the difference over all cases, in output steps."""
        return math.sqrt(sum(self.squares) / len(self.squares))

    @property
    def reproduces(self) -> bool:
        """Tell whether the combination reproduces the outputs of every case nearly bit by bit."""
        return max(self.squares) <= REPRODUCED**2

    @property
    def total_unequal(self) -> int:
        """Return the number of output values that differ, over all cases."""
        return sum(self.unequal)


@dataclass(frozen=True, kw_only=True)
class RoundingFit:
    """Hold how far the outputs are from routing as declared, under the experts that fit best."""

    rounding: RouterNumerics
    fit: Fit


@dataclass(frozen=True, kw_only=True)
class HiddenRounding:
    """Hold what outputs say of the routing that a whole layer hides.

    tried: the nearest first, one for each set of router weights. is_assumed: whether the first one
    gives the weights by which the row's layer is judged first. is_stated: whether these are stated.
    """

    tried: tuple[RoundingFit, ...]
    is_assumed: bool
    is_stated: bool

    @property
    def rounding(self) -> RouterNumerics:
        """Return the nearest declaration."""
        return self.tried[0].rounding


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Hold the fits of all combinations to the outputs of the same cases.

    cases: their ids. values: the number of output values of each. used: the part of its tolerance
    that the worst row of each case uses, under the combination with the least residual.
    """

    cases: tuple[str, ...]
    values: tuple[int, ...]
    fits: tuple[Fit, ...]
    used: tuple[float, ...]
    hidden: HiddenRounding | None = None  # of a whole layer that hides its routing

    @property
    def nearest(self) -> Fit:
        """Return the fit with the least residual."""
        return min(self.fits, key=lambda fit: fit.residual)
