"""Hold how many rows of a router's output each declaration of its roundings explains. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe.router_numerics import RouterNumerics


@dataclass(frozen=True, kw_only=True)
class RouterFit:
    """Hold how well one declaration explains the outputs of some cases.

    rows: that it explains, of each case. ties: rows of each case in which it accepts more than one
    choice of experts. weights: of each case a digest of the weights that it expects: equal ones are
    the same weights in every row.
    """

    rounding: RouterNumerics
    rows: tuple[int, ...]
    ties: tuple[int, ...]
    weights: tuple[str, ...]

    @property
    def total(self) -> int:
        """Return the number of rows that it explains."""
        return sum(self.rows)

    def means_the_same(self, other: RouterFit) -> bool:
        """Tell whether another declaration accepts the same in all cases, as far as they tell."""
        return self.weights == other.weights and self.ties == other.ties


@dataclass(frozen=True, kw_only=True)
class RouterMeasured:
    """Hold the fits of all declarations to the outputs of the same cases.

    cases: their ids. rows: of each. calls: of all. fits: of the declarations that are tried, and of
    the row's own, if it has one.
    """

    cases: tuple[str, ...]
    rows: tuple[int, ...]
    calls: int
    fits: tuple[RouterFit, ...]
    stated: RouterFit | None = None

    @property
    def total(self) -> int:
        """Return the number of rows of all cases."""
        return sum(self.rows)
