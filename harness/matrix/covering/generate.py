"""Find few accepted rows that contain every combination of values that an accepted row can have.

Row by row: a row starts from a combination that is still missing where the most are missing, and
each further factor gets the value that completes the most missing combinations. Of several such
rows the best is taken. Equal arguments give equal rows, on any machine.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections import defaultdict
from typing import TYPE_CHECKING

from harness.matrix.covering.model import maximal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from harness.matrix.covering.model import Factors, Literals, Model
    from harness.matrix.covering.oracle import Oracle

_EFFORT = 100_000  # combinations times tries: more tries find fewer rows, and take longer
_SMALL, _REPEATS = 10_000, 20  # combinations times repeats of the whole, and most repeats
_FIELD = 32  # bits in which the votes for one value are counted


class Missing:
    """Hold the combinations that no row has yet, and count votes for values."""

    def __init__(self, model: Model, oracle: Oracle) -> None:
        self._model = model
        targets = maximal(model.targets)
        self.by_target: dict[Factors, dict[Literals, None]] = {
            target: dict.fromkeys(t for t in model.tuples(target) if not oracle.excludes(t))
            for target in targets
        }
        self.widths = sorted({len(target) for target in targets})
        # Factor -> other literals of a combination -> one count for each value of the factor that
        # makes it a missing one, side by side in one number: sums count all values at once.
        self._votes: list[dict[Literals, int]] = [defaultdict(int) for _ in model.sizes]
        for combinations in self.by_target.values():
            for combination in combinations:
                for factor, others, one in self._parts(combination):
                    self._votes[factor][others] += one

    def _parts(self, combination: Literals) -> Iterator[tuple[int, Literals, int]]:
        for i, literal in enumerate(combination):
            factor = self._model.factor_of[literal]
            shift = _FIELD * (literal - self._model.literals[factor].start)
            yield factor, combination[:i] + combination[i + 1 :], 1 << shift

    @property
    def size(self) -> int:
        """Return how many combinations are missing."""
        return sum(map(len, self.by_target.values()))

    def votes(self, factor: int, chosen: list[int]) -> tuple[int, ...]:
        """Return for each value how many missing combinations it makes with `chosen`."""
        votes = self._votes[factor]
        total = sum(
            sum(filter(None, map(votes.get, itertools.combinations(chosen, width - 1))))
            for width in self.widths
        )
        size = self._model.sizes[factor]
        return struct.unpack(f"<{size}I", total.to_bytes(size * _FIELD // 8, "little"))

    def starts(self, shares: Iterable[float]) -> list[Literals]:
        """Return missing combinations, of the factors that have the most of them; none if none is.

        shares: in [0, 1), how far along them each is taken.
        """
        largest = max(self.by_target, key=lambda target: len(self.by_target[target]), default=())
        combinations = list(self.by_target.get(largest, ()))
        if not combinations:
            return []
        return [combinations[int(share * len(combinations))] for share in shares]

    def count(self, row: Literals) -> int:
        """Return how many missing combinations a row has."""
        return sum(
            tuple(row[f] for f in target) in combinations
            for target, combinations in self.by_target.items()
        )

    def remove(self, combinations: Iterable[Literals]) -> None:
        """Take combinations out: a row has them, or none can."""
        for combination in combinations:
            target = tuple(self._model.factor_of[n] for n in combination)
            if self.by_target[target].pop(combination, 0) is None:
                for factor, others, one in self._parts(combination):
                    self._votes[factor][others] -= one

    def remove_row(self, row: Mapping[int, int]) -> None:
        """Take out what a row has, or a part of one. row: factor -> literal."""
        factors = row.keys()
        self.remove(
            tuple(row[f] for f in target) for target in self.by_target if factors >= set(target)
        )


def cover(
    model: Model, oracle: Oracle, before: Iterable[Mapping[int, int]] = ()
) -> tuple[Literals, ...]:
    """Return rows that, with those before, have every combination that an accepted row can have.

    before: rows or parts of rows, as factor -> literal. Small models are tried several times.
    """
    known = list(before)
    first = Generator(model, oracle)
    repeats = max(1, min(_REPEATS, _SMALL // max(1, first.missing.size)))
    others = (Generator(model, oracle, seed=seed) for seed in range(1, repeats))
    return min((g.after(known) for g in itertools.chain((first,), others)), key=len)


class Generator:
    """Make rows until nothing is missing."""

    def __init__(
        self, model: Model, oracle: Oracle, *, tries: int | None = None, seed: int = 0
    ) -> None:
        """Find out what can be combined. tries: the rows out of which each row is the best."""
        self._oracle = oracle
        self._model = model
        self._random = random.Random(seed)  # noqa: S311  # equal models must get equal rows
        self._learn_pairs()
        self.missing = Missing(model, oracle)
        self._tries = tries or max(2, min(20, _EFFORT // max(1, self.missing.size)))

    def after(self, before: Iterable[Mapping[int, int]]) -> tuple[Literals, ...]:
        """Return the rows that are necessary besides rows that are there."""
        for row in before:
            self.missing.remove_row(row)
        return tuple(self.rows())

    def rows(self) -> Iterator[Literals]:
        """Yield rows that together have every combination that an accepted row can have."""
        while (best := self._best()) is not None:
            self.missing.remove_row(dict(enumerate(best)))
            yield best

    def _best(self) -> Literals | None:
        """Return the row with the most missing combinations out of some tries."""
        rows: list[Literals] = []
        while not rows:
            starts = self.missing.starts(self._random.random() for _ in range(self._tries))
            if not starts:
                return None
            for start in starts:
                row = self._oracle.complete(start, order=self._order(), prefer=self._prefer)
                if row is None:
                    self.missing.remove([start])
                else:
                    rows.append(row)
        return max(rows, key=self.missing.count)

    def _order(self) -> list[int]:
        order = list(range(len(self._model.sizes)))
        return sorted(order, key=lambda _: self._random.random())

    def _prefer(self, factor: int, chosen: list[int]) -> list[int]:
        votes = self.missing.votes(factor, chosen)
        first = self._model.literals[factor].start
        ranked = sorted((-count, self._random.random(), i) for i, count in enumerate(votes))
        return [first + i for _, _, i in ranked]

    def _learn_pairs(self) -> None:
        """Let the oracle learn which pairs of values exclude each other."""
        seen: set[Literals] = set()
        for target in itertools.combinations(range(len(self._model.sizes)), 2):
            for pair in self._model.tuples(target):
                if pair not in seen:
                    row = self._oracle.complete(pair, prefer=self._shuffled)
                    seen.update(itertools.combinations(row or (), 2))

    def _shuffled(self, factor: int, _: list[int]) -> list[int]:
        return sorted(self._model.literals[factor], key=lambda _: self._random.random())
