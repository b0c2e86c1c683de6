"""Tell whether values can be combined: whether some accepted row has them.

The oracle completes rows value by value. A row that is refused teaches it which values exclude
each other; so does a set of values that no value of some further factor fits. What was learnt is
kept, so that few rows of the whole product are ever judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harness.matrix.covering.model import Literals, Model

    # Given a factor and the ascending literals of a row so far: its literals, the preferred first.
    Prefer = Callable[[int, list[int]], Iterable[int]]

_KEPT = 4  # literals of the largest exclusion that is searched for though no refusal states it


class Oracle:
    """Complete rows of a model, or say which values exclude each other and for what reasons."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.judged = 0  # rows of which the model was asked
        self._order = sorted(range(len(model.sizes)), key=lambda f: -model.sizes[f])
        self._bits = tuple(sum(1 << n for n in numbers) for numbers in model.literals)
        # Exclusions are sets of literals, as bits; `_codes` has all of them with their reasons.
        self._codes: dict[int, frozenset[str]] = {}
        self._partners = [0] * len(model.factor_of)  # literal -> what excludes it, in pairs
        self._larger: list[list[int]] = [[] for _ in model.factor_of]  # the other exclusions

    def complete(
        self, literals: Iterable[int], *, order: Iterable[int] = (), prefer: Prefer | None = None
    ) -> Literals | None:
        """Return the literals of an accepted row that has these, or None if there is none.

        order: the factors in the order in which they get values, those left out last.
        """
        chosen = sorted(literals)
        if self._excluded(chosen) is not None:
            return None
        rest = [f for f in dict.fromkeys((*order, *self._order)) if not self._has(chosen, f)]
        row, _ = self._extend(chosen, _mask(chosen), rest, prefer or self._in_order)
        return None if row is None else tuple(row)

    def reasons(self, literals: Literals) -> frozenset[str]:
        """Return the reason codes why no accepted row has these literals; none if one has."""
        if self.complete(literals) is not None:
            return frozenset()
        return self._codes[self._excluded(list(literals)) or 0]

    def excludes(self, literals: Iterable[int]) -> bool:
        """Return whether it is known by now that no accepted row has these literals."""
        return self._excluded(list(literals)) is not None

    @property
    def learnt(self) -> int:
        """Return how many exclusions were learnt by now."""
        return len(self._codes)

    def exclusions(self) -> list[Literals]:
        """Return the sets of literals that are known to exclude each other, smallest first."""
        kept: list[int] = []
        for mask in sorted(self._codes, key=lambda mask: (mask.bit_count(), mask)):
            if not any(mask & part == part for part in kept):
                kept.append(mask)
        return [_literals(mask) for mask in kept]

    def _has(self, literals: list[int], factor: int) -> bool:
        return any(self.model.factor_of[n] == factor for n in literals)

    def _in_order(self, factor: int, _: list[int]) -> range:
        return self.model.literals[factor]

    def _excluded(self, literals: list[int]) -> int | None:
        """Return an exclusion that these literals contain, or None."""
        if 0 in self._codes:
            return 0
        mask = _mask(literals)
        return next((e for e in (self._blocked(n, mask) for n in literals) if e), None)

    def _blocked(self, literal: int, mask: int) -> int:
        """Return an exclusion with this literal and others of `mask`; 0 if there is none."""
        bit = 1 << literal
        pair = self._partners[literal] & (mask | bit)
        if pair:
            return (pair & -pair) | bit
        mask |= bit
        return next((e for e in self._larger[literal] if e & mask == e), 0)

    def _extend(
        self, chosen: list[int], mask: int, rest: list[int], prefer: Prefer
    ) -> tuple[list[int] | None, int]:
        """Return an accepted row with `chosen`; or None and which of them exclude each other."""
        if not rest:
            return self._judge(chosen, mask)
        factor, *others = rest
        conflict, codes = 0, frozenset[str]()
        for literal in prefer(factor, chosen):
            bit = 1 << literal
            exclusion = self._blocked(literal, mask)
            if not exclusion:
                part = sorted([*chosen, literal])
                row, exclusion = self._extend(part, mask | bit, others, prefer)
                if row is not None or not exclusion & bit:
                    return row, exclusion  # accepted, or refused whatever value this factor has
            conflict |= exclusion & ~bit
            codes |= self._codes[exclusion]
        return None, self._learn(conflict, codes)

    def _judge(self, chosen: list[int], mask: int) -> tuple[list[int] | None, int]:
        """Ask the model for a complete row; learn from a refusal."""
        self.judged += 1
        refused = self.model.refuse(self.model.row(tuple(chosen)))
        if refused is None:
            return chosen, 0
        read = sum(self._bits[f] for f in refused.factors)
        return None, self._learn(mask & read, frozenset((refused.code,)), is_judged=True)

    def _learn(self, exclusion: int, codes: frozenset[str], *, is_judged: bool = False) -> int:
        """Remember that no accepted row has these literals together, and why."""
        if exclusion in self._codes:
            return exclusion
        self._codes[exclusion] = codes
        literals = _literals(exclusion)
        if len(literals) > _KEPT and not is_judged:
            return exclusion
        for literal in literals:
            self._larger[literal] = [e for e in self._larger[literal] if e & exclusion != exclusion]
            if len(literals) > 2:
                self._larger[literal].append(exclusion)
            else:
                self._partners[literal] |= exclusion & ~(1 << literal) or exclusion
        return exclusion


def _mask(literals: Iterable[int]) -> int:
    return sum(1 << n for n in literals)


def _literals(mask: int) -> Literals:
    return tuple(n for n in range(mask.bit_length()) if mask >> n & 1)
