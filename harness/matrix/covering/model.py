"""`Model`: factors with their values, what must be combined, and which rows are refused.

A row has one value of each factor, as an index. Values of all factors are numbered through:
`Model.literals` has these numbers, so that a part of a row is a set of bits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Row = tuple[int, ...]  # for each factor the index of its value
Factors = tuple[int, ...]  # indices of factors, ascending
Literals = tuple[int, ...]  # numbers of values, ascending: at most one of each factor


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Say why a row is refused. Every row with the same values of `factors` is refused, too."""

    code: str
    factors: frozenset[int]


def _accept(_: Row) -> Refused | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Model:
    """Hold the factors of a block. targets: sets of factors all of whose values are combined."""

    names: tuple[str, ...]  # of the factors
    values: tuple[tuple[str, ...], ...]  # of each factor, as text
    targets: tuple[Factors, ...]
    refuse: Callable[[Row], Refused | None] = field(default=_accept)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of values of each factor."""
        return tuple(len(values) for values in self.values)

    @cached_property
    def literals(self) -> tuple[range, ...]:
        """Return for each factor the numbers of its values."""
        ends = (0, *itertools.accumulate(self.sizes))
        return tuple(itertools.starmap(range, itertools.pairwise(ends)))

    @cached_property
    def factor_of(self) -> tuple[int, ...]:
        """Return for each literal its factor."""
        return tuple(f for f, numbers in enumerate(self.literals) for _ in numbers)

    def tuples(self, target: Factors) -> itertools.product[Literals]:
        """Return every combination of values of these factors."""
        return itertools.product(*(self.literals[f] for f in target))

    def row(self, literals: Literals) -> Row:
        """Return the row that has these literals, one of each factor."""
        return tuple(n - numbers.start for n, numbers in zip(literals, self.literals, strict=True))

    def partial(self, values: Sequence[int | None]) -> dict[int, int]:
        """Return factor -> literal of the values that are given; None stands for another value."""
        return {f: self.literals[f][v] for f, v in enumerate(values) if v is not None}

    def literals_in(self, values: Mapping[int, int]) -> Literals:
        """Return the literals of some factors. values: factor -> index of its value."""
        return tuple(self.literals[f][value] for f, value in sorted(values.items()))

    def text(self, literals: Literals) -> str:
        """Return literals as `quant=fp8_block, dtype=fp16`."""
        factors = [self.factor_of[n] for n in literals]
        return ", ".join(
            f"{self.names[f]}={self.values[f][n - self.literals[f].start]}"
            for f, n in zip(factors, literals, strict=True)
        )


def taking(factors: Factors) -> Callable[[Mapping[int, int] | Sequence[int]], Literals]:
    """Return what takes the literals of these factors out of a row, or out of a part of one."""
    if len(factors) > 1:
        return itemgetter(*factors)
    return lambda row: tuple(row[f] for f in factors)


def all_targets(count: int, strength: int) -> tuple[Factors, ...]:
    """Return every set of `strength` factors, or of all if there are fewer."""
    return tuple(itertools.combinations(range(count), min(strength, count)))


def maximal(targets: tuple[Factors, ...]) -> tuple[Factors, ...]:
    """Return the targets that are part of no other one, each once: these imply the others."""
    largest: list[Factors] = []
    for target in sorted(dict.fromkeys(targets), key=lambda factors: (-len(factors), factors)):
        if not any(set(target) <= set(other) for other in largest if len(other) > len(target)):
            largest.append(target)
    return tuple(largest)
