"""Prove how many cases a covering suite has at least.

Each feasible combination of the values of any two axes needs a case of its own, and so do those of
any three. Constraints make more of them necessary: the cases that have different values of one axis
are different cases, and each value may need the most for another axis. If some values go together
with one value only, say backends with one number format, then the cases of that format are those of
the backends together. `lower_bound` adds these up. It reads nothing but the feasible combinations.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Values = tuple[tuple[int, int], ...]  # a combination: (factor, index of its value), by factor


def lower_bound(
    sizes: Sequence[int],
    combinations: Iterable[Values],
    strength: int,
    *,
    are_all: bool = True,
) -> int:
    """Return a number of cases that no suite with all these combinations is below.

    combinations: the feasible ones of any `strength` factors out of some. are_all: False if some of
    these factors' feasible combinations are left out, so that none here does not mean impossible.
    """
    if not strength:
        return len(set(combinations))
    return _Bound(sizes, combinations, strength, are_all=are_all).of(0, strength)


class _Bound:
    """Count the cases that have some values; values are bits, of all factors side by side."""

    def __init__(
        self,
        sizes: Sequence[int],
        combinations: Iterable[Values],
        strength: int,
        *,
        are_all: bool,
    ) -> None:
        self._are_all = are_all
        self._starts = [sum(sizes[:f]) for f in range(len(sizes))]
        self._factors = [
            ((1 << size) - 1) << start for size, start in zip(sizes, self._starts, strict=True)
        ]
        # Some values -> all values that a case with these can have.
        self._with: dict[int, int] = defaultdict(int)
        masks = {
            sum(1 << self._starts[f] + v for f, v in combination) for combination in combinations
        }
        for _ in range(strength):
            masks = self._take_one_out(masks)
        self._known: dict[tuple[int, int], int] = {}

    def _take_one_out(self, masks: set[int]) -> set[int]:
        smaller: set[int] = set()
        for mask in masks:
            for value in _bits(mask):
                self._with[mask ^ value] |= value
                smaller.add(mask ^ value)
        return smaller

    def of(self, values: int, more: int) -> int:
        """Return how many cases have these values, in all combinations with `more` others."""
        if (values, more) not in self._known:
            allowed = self._with.get(values, 0)
            parts = (self._by(factor, values, more) for factor in self._factors if factor & allowed)
            self._known[values, more] = max(parts, default=0)
        return self._known[values, more]

    def _by(self, factor: int, values: int, more: int) -> int:
        """Add up the cases with each value of one factor."""
        mask = self._with.get(values, 0) & factor
        if more == 1:
            return mask.bit_count()
        bound = {value: self.of(values | value, more - 1) for value in _bits(mask)}
        for other in self._factors:
            if self._are_all and other != factor and bound:
                for value, cases in self._only(other, factor, values, more).items():
                    bound[value] = max(bound[value], cases)
        return sum(bound.values())

    def _only(self, other: int, factor: int, values: int, more: int) -> dict[int, int]:
        """Return value of a factor -> the cases for values of another that go with it alone."""
        cases: dict[int, int] = defaultdict(int)
        for value in _bits(self._with.get(values, 0) & other):
            partners = self._with.get(values | value, 0) & factor
            if partners.bit_count() == 1:
                cases[partners] += self.of(values | value, more - 1)
        return cases


def _bits(mask: int) -> Iterator[int]:
    """Yield the bits of a number, each as a number."""
    while mask:
        lowest = mask & -mask
        yield lowest
        mask ^= lowest
