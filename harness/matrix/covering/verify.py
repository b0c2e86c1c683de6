"""Count from the cases alone which combinations a suite covers.

This module shares no code with the generator but the lower bound, which says nothing of what is
covered: it reads the values of cases, and asks only why a combination that no case has is
impossible.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.matrix.covering.bound import lower_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Values = tuple[int | None, ...]  # of a case: for each factor an index; None: another value
    Combination = dict[int, int]  # factor -> index of its value
    Pairs = tuple[tuple[int, int], ...]  # the same as pairs


@dataclass(frozen=True, kw_only=True)
class Count:
    """Hold what was counted for some sets of factors."""

    total: int  # combinations of their values
    uncovered: tuple[Combination, ...]  # that a case could have, and none has
    infeasible: Counter[str]  # that no case can have, by reason codes
    bound: int  # no suite has fewer cases, see `bound`
    largest: int  # the most feasible combinations of one set, which is at most `bound`
    largest_of: tuple[int, ...]  # the factors of that set

    @property
    def feasible(self) -> int:
        """Return how many combinations a case could have."""
        return self.total - self.infeasible.total()

    @property
    def covered(self) -> int:
        """Return how many combinations a case has."""
        return self.feasible - len(self.uncovered)


def count(
    cases: Sequence[Values],
    sizes: Sequence[int],
    targets: Iterable[tuple[int, ...]],
    why_not: Callable[[Combination], frozenset[str]],
) -> Count:
    """Count the combinations of each set of factors.

    why_not: returns the reason codes why no case can have a combination; none if one could.
    """
    total, uncovered, infeasible = 0, list[dict[int, int]](), Counter[str]()
    feasible: dict[tuple[int, ...], list[Pairs]] = {}
    for target in targets:
        missing = [dict(zip(target, m, strict=True)) for m in _missing(cases, sizes, target)]
        reasons = [(combination, why_not(combination)) for combination in missing]
        uncovered += [combination for combination, codes in reasons if not codes]
        impossible = Counter("+".join(sorted(codes)) for _, codes in reasons if codes)
        infeasible += impossible
        total += math.prod(sizes[f] for f in target)
        excluded = {tuple(combination.items()) for combination, codes in reasons if codes}
        feasible[target] = [pairs for pairs in _all(sizes, target) if pairs not in excluded]
    largest_of = max(feasible, key=lambda target: len(feasible[target]), default=())
    return Count(
        total=total,
        uncovered=tuple(uncovered),
        infeasible=infeasible,
        bound=lower_bound(sizes, itertools.chain.from_iterable(feasible.values()), len(largest_of)),
        largest=len(feasible.get(largest_of, ())),
        largest_of=largest_of,
    )


def _all(sizes: Sequence[int], target: tuple[int, ...]) -> Iterable[Pairs]:
    """Return all combinations of values of these factors."""
    return itertools.product(*([(f, value) for value in range(sizes[f])] for f in target))


def _missing(
    cases: Sequence[Values], sizes: Sequence[int], target: tuple[int, ...]
) -> Iterable[tuple[int, ...]]:
    """Return the combinations of these factors that no case has."""
    covered = {tuple(values[f] for f in target) for values in cases}
    return (c for c in itertools.product(*(range(sizes[f]) for f in target)) if c not in covered)
