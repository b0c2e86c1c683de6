"""Find few accepted rows that contain every combination of values that an accepted row can have.

Row by row: a row starts from a combination that is still missing where the most are missing, and
each further factor gets the value that completes the most missing combinations. Of several such
rows the best is taken. Then the rows that are needed least are taken out, and what only they had is
put into fewer new ones. Equal arguments give equal rows, on any machine.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import TYPE_CHECKING

from harness.matrix.covering.ballot import Ballot
from harness.matrix.covering.missing import Missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from harness.matrix.covering.model import Factors, Literals, Model
    from harness.matrix.covering.oracle import Oracle

_EFFORT = 100_000  # combinations times tries: more tries find fewer rows, and take longer
_SMALL, _REPEATS = 4_000, 20  # combinations times repeats of the whole, and most repeats
_IN_VAIN = 4  # repeats in sequence that find no fewer rows, after which no more are made
_ROUNDS, _SHARE = 2, 0.15  # how often rows are taken out, and which part of them


def cover(
    model: Model, oracle: Oracle, before: Iterable[Mapping[int, int]] = ()
) -> tuple[Literals, ...]:
    """Return rows that, with those before, have every combination that an accepted row can have.

    before: rows or parts of rows, as factor -> literal. Small models are tried several times.
    """
    known = list({tuple(sorted(row.items())): row for row in before}.values())
    generator = Generator(model, oracle)
    repeats = max(1, min(_REPEATS, _SMALL // max(1, generator.missing.size)))
    best, best_seed = generator.after(known), 0
    for seed in range(1, repeats):
        if len(best) <= generator.fewest or seed - best_seed > _IN_VAIN:
            break
        generator = Generator(model, oracle, seed=seed)
        rows = generator.after(known)
        if len(rows) < len(best):
            best, best_seed = rows, seed
    return best


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
        self._ballot = Ballot(self.missing, oracle, self._random)
        self.fewest = 0  # rows that are necessary at least, known once those before are
        self._tries = tries or max(2, min(20, _EFFORT // max(1, self.missing.size)))

    def after(self, before: Sequence[Mapping[int, int]]) -> tuple[Literals, ...]:
        """Return the rows that are necessary besides rows that are there."""
        for row in before:
            self.missing.remove_row(row)
        self.fewest = self.missing.bound()
        rows = tuple(self.rows())
        self._tries *= 2  # what is taken out is little, and hard to put into few rows
        for _ in range(_ROUNDS):
            if len(rows) <= self.fewest:
                break
            rows = min(rows, self._repacked(rows, before), key=len)
        return rows

    def rows(self) -> Iterator[Literals]:
        """Yield rows that together have every combination that an accepted row can have."""
        while (best := self._best()) is not None:
            self.missing.remove_row(dict(enumerate(best)))
            yield best

    def _repacked(
        self, rows: tuple[Literals, ...], before: Sequence[Mapping[int, int]]
    ) -> tuple[Literals, ...]:
        """Return rows in which new ones take the place of those that are needed least."""
        needed = self._needed(rows, before)
        ranked = sorted(range(len(rows)), key=lambda i: needed[i])
        out = set(ranked[: int(len(rows) * _SHARE)])
        remaining = tuple(row for i, row in enumerate(rows) if i not in out)
        removed = self._columns([rows[i] for i in sorted(out)])
        columns, known = self._columns(remaining), self._known(before)
        for target in self.missing.by_target:
            still = set(_of(columns, target)) | set(_of(known, target))
            for combination in dict.fromkeys(_of(removed, target)):
                if combination not in still:
                    self.missing.restore(combination)
        return (*remaining, *self.rows())

    def _needed(self, rows: tuple[Literals, ...], before: Sequence[Mapping[int, int]]) -> list[int]:
        """Return for each row how many combinations it alone has."""
        needed = [0] * len(rows)
        columns, known = self._columns(rows), self._known(before)
        for target in self.missing.by_target:
            combinations = list(_of(columns, target))
            counts = Counter(combinations)
            counts.update(_of(known, target))
            for i, combination in enumerate(combinations):
                needed[i] += counts[combination] == 1
        return needed

    def _columns(self, rows: Sequence[Literals]) -> list[tuple[int, ...]]:
        return list(zip(*rows, strict=True)) or [()] * len(self._model.sizes)

    def _known(self, before: Sequence[Mapping[int, int]]) -> list[tuple[int, ...]]:
        """Return the columns of rows that are there; -1 stands for a value of no row."""
        return [tuple(row.get(f, -1) for row in before) for f in range(len(self._model.sizes))]

    def _best(self) -> Literals | None:
        """Return the row with the most missing combinations out of some tries."""
        while True:
            starts = self.missing.starts(self._random.random() for _ in range(self._tries))
            if not starts:
                return None
            rows = [built for start in starts if (built := self._built(start)) is not None]
            for _, row in sorted(rows, key=lambda built: -built[0]):
                if self._oracle.accepts(row):
                    return row

    def _built(self, start: Literals) -> tuple[int, Literals] | None:
        """Return how many missing combinations a row has, and the row; None if there is none."""
        order = _shuffled(range(len(self._model.sizes)), self._random)
        built = self._ballot.complete(start, order)
        if built is None and self._oracle.complete(start) is None:
            self.missing.exclude(start)
        return built

    def _learn_pairs(self) -> None:
        """Let the oracle learn which pairs of values exclude each other."""
        possible: set[Literals] = set()
        for target in itertools.combinations(range(len(self._model.sizes)), 2):
            for pair in self._model.tuples(target):
                if pair not in possible:
                    row = self._oracle.complete(
                        pair, prefer=lambda f, _: _shuffled(self._model.literals[f], self._random)
                    )
                    possible.update(itertools.combinations(row or (), 2))


def _shuffled(items: Iterable[int], rng: random.Random) -> list[int]:
    """Return items in random order: Fisher and Yates, with as many bits as each draw needs."""
    shuffled, draw = list(items), rng.getrandbits
    for i in range(len(shuffled) - 1, 0, -1):
        bits = (i + 1).bit_length()
        while (j := draw(bits)) > i:
            pass
        shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
    return shuffled


def _of(columns: Sequence[tuple[int, ...]], target: Factors) -> Iterator[Literals]:
    """Yield what each row has of these factors."""
    return zip(*(columns[factor] for factor in target), strict=True)
