"""Tell whether values can be combined: whether some accepted row has them.

The oracle completes rows value by value. A row that is refused teaches it which values exclude
each other; so does a set of values that no value of some further factor fits. What was learnt is
kept, so that few rows of the whole product are ever judged.

Each exclusion that was learnt is one bit of some large numbers: a few operations on these tell at
once which of thousands of exclusions a part of a row completes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from harness.matrix.covering.model import Factors, Literals, Model

    # Given a factor and the literals of a row so far: its literals, the preferred ones first.
    Prefer = Callable[[int, Literals], Iterable[int]]

_KEPT = 4  # literals of the largest exclusion that is searched for though no refusal states it


class Oracle:
    """Complete rows of a model, or say which values exclude each other and for what reasons."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.judged = 0  # rows of which the model was asked
        self._accepted: set[int] = set()  # rows, as bits
        self._order = sorted(range(len(model.sizes)), key=lambda f: -model.sizes[f])
        self._bits = tuple(sum(1 << n for n in numbers) for numbers in model.literals)
        # Exclusions are sets of literals, as bits; `_codes` has all of them with their reasons.
        self._codes: dict[int, frozenset[str]] = {}
        # Those that are searched for. In the numbers below each has the bit of its place here.
        self._searched: list[int] = []
        self.with_factor = [0] * len(model.sizes)  # factor -> exclusions with a value of it
        # Literal -> all exclusions but those with another value of its factor.
        self.keeping = [-1] * len(model.factor_of)

    def complete(
        self,
        literals: Iterable[int],
        *,
        order: Iterable[int] = (),
        prefer: Prefer | None = None,
        judge: bool = True,
    ) -> Literals | None:
        """Return the literals of an accepted row that has these, or None if there is none.

        order: the factors in the order in which they get values, those left out last.
        judge: False returns a row that no exclusion known by now refuses; see `accepts`.
        """
        search = self.search(literals, order=order, prefer=prefer, judge=judge)
        return None if search is None else search.row()

    def search(
        self,
        literals: Iterable[int],
        *,
        order: Iterable[int] = (),
        prefer: Prefer | None = None,
        judge: bool = True,
    ) -> Search | None:
        """Return the search of `complete`; None if some of the literals exclude each other."""
        start = tuple(sorted(literals))
        has = {self.model.factor_of[n] for n in start}
        rest = [f for f in dict.fromkeys((*order, *self._order)) if f not in has]
        search = Search(self, start, rest, prefer or self._in_order, judge=judge)
        return None if 0 in self._codes or search.is_excluded else search

    def accepts(self, row: Literals) -> bool:
        """Return whether a complete row is accepted, and learn from it if it is not."""
        return self.judge(row, _mask(row)) is None

    def reasons(self, literals: Literals) -> frozenset[str]:
        """Return the reason codes why no accepted row has these literals; none if one has."""
        if self.complete(literals) is not None:
            return frozenset()
        return self._codes[self._excluded(literals) or 0]

    def excludes(self, literals: Iterable[int]) -> bool:
        """Return whether it is known by now that no accepted row has these literals."""
        return self._excluded(tuple(literals)) is not None

    def allowed(self, target: Factors) -> Iterator[Literals]:
        """Yield the combinations of these factors' values that no known exclusion refuses."""
        if 0 in self._codes:
            return
        other_factors = self.involving(f for f in range(len(self.model.sizes)) if f not in target)
        inside = self.alive(()) & ~other_factors
        for combination in self.model.tuples(target):
            alive = inside
            for literal in combination:
                alive &= self.keeping[literal]
            if not alive:
                yield combination

    @property
    def learnt(self) -> int:
        """Return how many exclusions were learnt by now."""
        return len(self._codes)

    def exclusions(self) -> list[Literals]:
        """Return the sets of literals that are known to exclude each other, smallest first."""
        minimal: list[int] = []
        for mask in sorted(self._codes, key=lambda mask: (mask.bit_count(), mask)):
            if not any(mask & part == part for part in minimal):
                minimal.append(mask)
        return [_literals(mask) for mask in minimal]

    def _in_order(self, factor: int, _: Literals) -> range:
        return self.model.literals[factor]

    def _excluded(self, literals: Literals) -> int | None:
        """Return an exclusion that these literals contain, or None."""
        if 0 in self._codes:
            return 0
        has = {self.model.factor_of[n] for n in literals}
        other_factors = self.involving(f for f in range(len(self.model.sizes)) if f not in has)
        return self.first(self.alive(literals) & ~other_factors) or None

    def alive(self, literals: Iterable[int]) -> int:
        """Return the exclusions, one a bit, that rows with these literals may still have."""
        alive = (1 << len(self._searched)) - 1
        for literal in literals:
            alive &= self.keeping[literal]
        return alive

    def involving(self, factors: Iterable[int]) -> int:
        """Return the exclusions, one a bit, that have a value of one of these factors."""
        involved = 0
        for factor in factors:
            involved |= self.with_factor[factor]
        return involved

    def first(self, exclusions: int) -> int:
        """Return the literals of the first exclusion of some, as bits; 0 if there is none."""
        return self._searched[(exclusions & -exclusions).bit_length() - 1] if exclusions else 0

    def codes(self, exclusion: int) -> frozenset[str]:
        """Return the reason codes of an exclusion that was learnt."""
        return self._codes[exclusion]

    def judge(self, row: Literals, mask: int) -> int | None:
        """Ask the model for a complete row; return None, or what was learnt from its refusal."""
        if mask in self._accepted:
            return None
        self.judged += 1
        refused = self.model.refuse(self.model.row(tuple(sorted(row))))
        if refused is None:
            self._accepted.add(mask)
            return None
        read = sum(self._bits[f] for f in refused.factors)
        return self.learn(mask & read, frozenset((refused.code,)), is_judged=True)

    def learn(self, exclusion: int, codes: frozenset[str], *, is_judged: bool = False) -> int:
        """Remember that no accepted row has these literals together, and why."""
        if exclusion in self._codes:
            return exclusion
        self._codes[exclusion] = codes
        literals = _literals(exclusion)
        if is_judged or len(literals) <= _KEPT:
            bit = 1 << len(self._searched)
            self._searched.append(exclusion)
            for literal in literals:
                self._involve(self.model.factor_of[literal], literal, bit)
        return exclusion

    def _involve(self, factor: int, literal: int, bit: int) -> None:
        self.with_factor[factor] |= bit
        for other in self.model.literals[factor]:
            if other != literal:
                self.keeping[other] &= ~bit


class Search:
    """Give values to the factors that a row does not have yet, and go back where none fits."""

    def __init__(
        self, oracle: Oracle, start: Literals, rest: list[int], prefer: Prefer, *, judge: bool
    ) -> None:
        self._oracle, self._prefer, self._is_judged = oracle, prefer, judge
        self.start, self.rest = start, rest  # literals of the row, and its other factors
        self.alive = oracle.alive(start)  # exclusions that it may still have
        self.until: list[int] = []  # for each of the rest: those without any factor after it
        self.is_excluded = bool(self.alive & self._look_ahead())

    def row(self) -> Literals | None:
        """Return the literals of an accepted row, or None if there is none."""
        row, _ = self._extend(self.start, _mask(self.start), self.alive)
        return None if row is None else tuple(sorted(row))

    def _extend(
        self, literals: Literals, mask: int, alive: int, at: int = 0
    ) -> tuple[Literals | None, int]:
        """Return an accepted row with `chosen`; or None and which of them exclude each other."""
        oracle, rest = self._oracle, self.rest
        if at == len(rest):
            refusal = oracle.judge(literals, mask) if self._is_judged else None
            return (literals, 0) if refusal is None else (None, refusal)
        conflict, codes = 0, frozenset[str]()
        for literal in self._prefer(rest[at], literals):
            narrowed = alive & oracle.keeping[literal]
            completed = narrowed & self.until[at]
            if completed:
                exclusion = oracle.first(completed)
            else:
                part = (*literals, literal)
                row, exclusion = self._extend(part, mask | 1 << literal, narrowed, at + 1)
                if row is not None or not exclusion >> literal & 1:
                    return row, exclusion  # accepted, or refused whatever value this factor has
                self._look_ahead()
                alive = oracle.alive(literals)
            conflict |= exclusion & ~(1 << literal)
            codes |= oracle.codes(exclusion)
        return None, oracle.learn(conflict, codes)

    def _look_ahead(self) -> int:
        """Find what involves no factor after each; return what involves none of them at all.

        It is found again when exclusions were learnt.
        """
        later, until = 0, []
        for factor in reversed(self.rest):
            until.append(~later)
            later |= self._oracle.with_factor[factor]
        self.until = until[::-1]
        return ~later


def _mask(literals: Iterable[int]) -> int:
    return sum(1 << n for n in literals)


def _literals(mask: int) -> Literals:
    return tuple(n for n in range(mask.bit_length()) if mask >> n & 1)
