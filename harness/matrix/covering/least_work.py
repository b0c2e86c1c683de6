"""Exchange values of rows for others with less work, so that the rows still cover as much.

Most rows of a covering suite have some values that other rows combine in the same way: they were
drawn to fill the row. Where a value costs more than another one there, such as many ranks or an
interpreted kernel, it is exchanged. The number of rows stays the same.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

from harness.matrix.covering.model import maximal, taking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from harness.matrix.covering.model import Literals
    from harness.matrix.covering.oracle import Oracle

    Work = Callable[[Literals], float]

_ROUNDS = 3  # over all rows: what one row takes on, another one can give up
_LEAST = 0.02  # the share of a row's work that an exchange saves at least


def with_least_work(
    rows: Sequence[Literals],
    before: Iterable[Mapping[int, int]],
    oracle: Oracle,
    work: Work,
) -> tuple[Literals, ...]:
    """Return as many accepted rows, which with those before cover what the given rows cover.

    rows: complete and accepted, one literal of each factor. before: rows or parts of rows, as
    factor -> literal, which stay as they are. work: of a complete row, in any unit. Equal
    arguments give equal rows.
    """
    exchange = Exchange(rows, before, oracle, work)
    for _ in range(_ROUNDS):
        if not exchange.go_over_all():
            break
    return tuple(exchange.rows)


class Exchange:
    """Hold rows, and how many of them have each combination of the targets."""

    def __init__(
        self,
        rows: Sequence[Literals],
        before: Iterable[Mapping[int, int]],
        oracle: Oracle,
        work: Work,
    ) -> None:
        self.rows = list(rows)
        self._oracle, self._work = oracle, work
        self._targets = maximal(oracle.model.targets)
        self._take = [taking(target) for target in self._targets]
        self._counts: Counter[Literals] = Counter()
        for row in self.rows:
            self._counts.update(self._combinations(row))
        for part in before:
            inside = (all(f in part for f in target) for target in self._targets)
            self._counts.update(take(part) for take in itertools.compress(self._take, inside))

    def go_over_all(self) -> bool:
        """Exchange values of each row, those with the most work first; return whether any."""
        ranked = sorted(range(len(self.rows)), key=lambda i: -self._work(self.rows[i]))
        return sum(map(self._improved, ranked)) > 0

    def _improved(self, index: int) -> bool:
        """Exchange values of a row while this saves work; return whether it did."""
        is_changed = False
        while (better := self._better(self.rows[index])) is not None:
            self._counts.subtract(self._combinations(self.rows[index]))
            self._counts.update(self._combinations(better))
            self.rows[index] = better
            is_changed = True
        return is_changed

    def _better(self, row: Literals) -> Literals | None:
        """Return the accepted row with the least work that differs in one free value, or None."""
        limit = self._work(row) * (1 - _LEAST)
        works = ((self._work(other), other) for other in self._others(row))
        cheaper = sorted((work, other) for work, other in works if work < limit)
        return next((other for _, other in cheaper if self._oracle.accepts(other)), None)

    def _others(self, row: Literals) -> Iterator[Literals]:
        """Yield the rows with another value of one factor, of which this row alone needs none."""
        needed = self._needed(row)
        for factor, numbers in enumerate(self._oracle.model.literals):
            if factor not in needed:
                for other in numbers:
                    if other != row[factor]:
                        yield (*row[:factor], other, *row[factor + 1 :])

    def _needed(self, row: Literals) -> set[int]:
        """Return the factors with a combination that no other row has."""
        needed: set[int] = set()
        pairs = zip(self._targets, self._combinations(row), strict=True)
        for target, combination in pairs:
            if self._counts[combination] == 1:
                needed.update(target)
        return needed

    def _combinations(self, row: Literals) -> list[Literals]:
        """Return what a row has of each target. Literals tell which factors they are of."""
        return [take(row) for take in self._take]
