"""Count which pairs of values of two axes the cases of a fuzzing run have. No torch.

The values of an axis are those that cases have been drawn with; seeds are left out, and numbers of
tokens count by their power of two. Beside pairs, a case has an edge where the next smaller or
larger value of an axis is refused on the machine.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import CaseError
from harness.matrix.case import AXES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.commands.fuzz_space import Space
    from harness.matrix.case import MoETestConfig

    Value = tuple[str, Any]  # axis, its value
    Pair = frozenset[Value]
    Edge = tuple[str, Any, Any]  # axis, its value, the value next to it that is refused

NAMES = tuple(name for name in AXES if name != "seed")
_SAMPLE = 300  # pairs that no case has, of which some can run
_BASES = 8  # cases that are changed to have such a pair


@dataclass
class PairCoverage:
    """Hold the values, pairs and edges of the cases so far."""

    space: Space
    values: dict[str, set[Any]] = field(default_factory=lambda: defaultdict(set))
    pairs: set[Pair] = field(default_factory=set)
    edges: set[Edge] = field(default_factory=set)
    cases: list[MoETestConfig] = field(default_factory=list)

    def know(self, cases: Iterable[MoETestConfig]) -> None:
        """Take note of the values of drawn cases, whether these run or not."""
        for case in cases:
            for name in NAMES:
                self.values[name].add(getattr(case, name))

    def add(self, case: MoETestConfig) -> None:
        """Count the pairs and edges of a case that can run."""
        self.know([case])
        self.add_pairs(case)
        self.edges.update(edge for name in NAMES for edge in self.edges_of(case, name))

    def add_pairs(self, case: MoETestConfig) -> None:
        """Count the pairs of a case that can run, but not its edges, which take longer to find."""
        self.cases.append(case)
        values = values_of(case)
        self.pairs.update(frozenset((a, b)) for i, a in enumerate(values) for b in values[i + 1 :])

    def news(self, case: MoETestConfig, name: str) -> int:
        """Return how many pairs and edges with the value of one axis no case has had."""
        pair_of_case = (name, _counted(name, getattr(case, name)))
        pairs = (frozenset((pair_of_case, other)) for other in values_of(case) if other[0] != name)
        return sum(pair not in self.pairs for pair in pairs) + sum(
            edge not in self.edges for edge in self.edges_of(case, name)
        )

    def edges_of(self, case: MoETestConfig, name: str) -> list[Edge]:
        """Return the edges of a case at one axis: none where values have no order."""
        now, values = getattr(case, name), self.values[name]
        if isinstance(now, str) or len(values) < 2:
            return []
        ranked = sorted(values | {now})
        place = ranked.index(now)
        near = [*ranked[max(0, place - 1) : place], *ranked[place + 1 : place + 2]]
        return [(name, now, other) for other in near if not self._runs(case, {name: other})]

    def share(self) -> float:
        """Return an upper estimate of the share of the pairs that can run which the cases have.

        A pair that no case has counts if changing one value of a case gives a case that has it and
        runs; some of these pairs are tried. Pairs that need more changes are not counted.
        """
        unseen = self._unseen()
        sample = random.Random(0).sample(unseen, min(_SAMPLE, len(unseen)))  # noqa: S311
        possible = sum(self._is_possible(pair) for pair in sample) / max(1, len(sample))
        return len(self.pairs) / max(1.0, len(self.pairs) + possible * len(unseen))

    def _unseen(self) -> list[tuple[Value, Value]]:
        """Return the pairs of known values that no case has, in a fixed order."""
        known = sorted({value for case in self.cases for value in values_of(case)}, key=repr)
        return [
            (a, b)
            for i, a in enumerate(known)
            for b in known[i + 1 :]
            if a[0] != b[0] and frozenset((a, b)) not in self.pairs
        ]

    def _is_possible(self, pair: tuple[Value, Value]) -> bool:
        """Return whether a case with one of the values can have the other, too, and run."""
        return any(
            self._runs(case, dict([other]))
            for value, other in (pair, pair[::-1])
            for case in self._with(value)
        )

    def _with(self, value: Value) -> list[MoETestConfig]:
        return [case for case in self.cases if value in values_of(case)][:_BASES]

    def _runs(self, case: MoETestConfig, change: dict[str, Any]) -> bool:
        try:
            return self.space.runs(case.replace(**change))
        except CaseError:
            return False


def pairs_line(space: Space, cases: Iterable[MoETestConfig]) -> str:
    """Return how many pairs the cases have, and the share of those that can run."""
    coverage = PairCoverage(space)
    for case in cases:
        coverage.add_pairs(case)
    pairs = f"{len(coverage.pairs):,} pairs of values of two axes"
    return f"{pairs}, at most {coverage.share():.0%} of the pairs that can run"


def values_of(case: MoETestConfig) -> list[Value]:
    """Return the axes of a case with their values, as pairs count them."""
    return [(name, _counted(name, getattr(case, name))) for name in NAMES]


def _counted(name: str, value: Any) -> Any:
    return 1 << (value - 1).bit_length() if name == "m" else value
