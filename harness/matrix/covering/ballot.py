"""`Ballot`: complete one row, each value the one that completes the most missing combinations.

Nearly all rows are completed straight on, which `Ballot` does by itself. Where no value of a factor
fits, the oracle searches again from the start, with the same draws, and learns why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from harness.matrix.covering.missing import Missing
    from harness.matrix.covering.model import Literals
    from harness.matrix.covering.oracle import Oracle, Search


class Ballot:
    """Complete rows by their votes; draws decide between values that have as many."""

    def __init__(self, missing: Missing, oracle: Oracle, rng: random.Random) -> None:
        self._missing, self._oracle = missing, oracle
        self._draw = rng.random  # in [0, 1), so that a vote counts for more
        self._ranks: list[list[float]] = []  # of the values of each factor, in the order of asking

    def complete(self, start: Literals, order: Iterable[int]) -> tuple[int, Literals] | None:
        """Return how many missing combinations a row has, and the row; None if there is none.

        start: literals that it has. order: the other factors in the order in which they get values.
        The row is one that no exclusion known by now refuses; see `Oracle.accepts`.
        """
        search = self._oracle.search(start, order=order, prefer=self._prefer, judge=False)
        if search is None:
            return None
        self._ranks.clear()
        row = self._straight(search)
        if row is not None:
            return row
        searched = search.row()
        return None if searched is None else (self._missing.had_by(searched)[1], searched)

    def _straight(self, search: Search) -> tuple[int, Literals] | None:
        """Return what `complete` does; None where no value of a factor fits those before it."""
        of_factor, votes_after = self._missing.of_factor, self._missing.votes_after
        keeping, firsts, draw = self._oracle.keeping, self._missing.firsts, self._draw
        literals, alive = search.start, search.alive
        votes, gain = self._missing.had_by(literals)
        for factor, until in zip(search.rest, search.until, strict=True):
            counts, first = of_factor(votes, factor), firsts[factor]
            ranks = [draw() - count for count in counts]
            self._ranks.append(ranks)
            for rank in sorted(ranks):
                place = ranks.index(rank)
                left = alive & keeping[first + place]
                if not left & until:
                    break
            else:
                return None
            literals += (first + place,)
            gain, alive, votes = gain + counts[place], left, votes_after(votes, literals)
        return gain, tuple(sorted(literals))

    def _prefer(self, factor: int, literals: Literals) -> list[int]:
        """Return the literals of a factor, those first that complete the most combinations."""
        if self._ranks:
            ranks = self._ranks.pop(0)
        else:
            votes, _ = self._missing.had_by(literals)
            ranks = [self._draw() - count for count in self._missing.of_factor(votes, factor)]
        return [n for _, n in sorted(zip(ranks, self._missing.literals[factor], strict=True))]
