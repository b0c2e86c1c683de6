"""`Missing`: the combinations that no row has yet, and votes for the values that complete them.

The votes for all values of all factors stand side by side in one large number, each in a field of
its own, so that one sum counts them all.
"""

from __future__ import annotations

import itertools
import math
import struct
from typing import TYPE_CHECKING

from harness.matrix.covering.bound import lower_bound
from harness.matrix.covering.model import maximal, taking

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from harness.matrix.covering.model import Factors, Literals, Model
    from harness.matrix.covering.oracle import Oracle


class Missing:
    """Hold the combinations that no row has yet."""

    def __init__(self, model: Model, oracle: Oracle) -> None:
        """Begin with every combination of the targets that is not known to be excluded."""
        self._model = model
        targets = maximal(model.targets)
        self.by_target: dict[Factors, dict[Literals, None]] = {
            target: dict.fromkeys(oracle.allowed(target)) for target in targets
        }
        self.literals = model.literals
        self.firsts = [numbers.start for numbers in model.literals]
        self._take = [taking(target) for target in targets]
        self._widths = sorted({len(target) for target in targets})
        self.field, code = _field(len(model.sizes), self._widths)
        # Where the fields of a factor's values are: (bits before them, mask, form of their bytes).
        self._places = [
            (
                self.field * numbers.start,
                (1 << self.field * len(numbers)) - 1,
                struct.Struct(f"<{len(numbers)}{code}"),
            )
            for numbers in model.literals
        ]
        # Votes while nothing is chosen, and literal -> others -> votes: the combinations of all of
        # these with one more literal. Each field is 0 or 1.
        self._first = 0
        self._votes: list[dict[Literals, int]] = [{} for _ in model.factor_of]
        self._collect()

    def _collect(self) -> None:
        bits: list[dict[Literals, int]] = [{} for _ in self._votes]
        first = 0
        for combination in itertools.chain.from_iterable(self.by_target.values()):
            first |= 1 << combination[0] if len(combination) == 1 else 0
            for literal, remaining, last in _splits(combination):
                bits[literal][remaining] = bits[literal].get(remaining, 0) | 1 << last
        self._first = self.spread(first)
        for votes, masks in zip(self._votes, bits, strict=True):
            votes.update((remaining, self.spread(mask)) for remaining, mask in masks.items())

    def spread(self, mask: int) -> int:
        """Return a number that has 1 in the field of each literal of a mask."""
        zero = "0" * (self.field // 4)
        digits = f"{mask:b}".translate({ord("0"): zero, ord("1"): f"{zero[1:]}1"})
        return int(digits, 16)

    @property
    def size(self) -> int:
        """Return how many combinations are missing."""
        return sum(map(len, self.by_target.values()))

    def bound(self) -> int:
        """Return a number of rows that are necessary, at least, for what is missing."""
        by_width: dict[int, list[Literals]] = {width: [] for width in self._widths}
        for target, combinations in self.by_target.items():
            by_width[len(target)] += combinations
        return max(itertools.starmap(self._bound, by_width.items()), default=0)

    def _bound(self, width: int, combinations: list[Literals]) -> int:
        factor_of, literals = self._model.factor_of, self._model.literals
        pairs = [
            tuple((factor_of[n], n - literals[factor_of[n]].start) for n in combination)
            for combination in combinations
        ]
        return lower_bound(self._model.sizes, pairs, width, are_all=False)

    def votes_after(self, votes: int, chosen: Sequence[int]) -> int:
        """Return the votes after one more literal. votes: those before the last of `chosen`."""
        if not chosen:
            return self._first
        before, table = chosen[:-1], self._votes[chosen[-1]]
        for width in self._widths:
            if width == 2:
                votes += table.get((), 0)
            elif width == 3:
                votes += sum([table.get((n,), 0) for n in before])
            elif width > 3:
                remaining = itertools.combinations(sorted(before), width - 2)
                votes += sum(filter(None, map(table.get, remaining)))
        return votes

    def had_by(self, chosen: Literals) -> tuple[int, int]:
        """Return the votes after some literals, and how many missing combinations these have."""
        votes, count = self._first, 0
        for i, literal in enumerate(chosen):
            count += votes >> self.field * literal & (1 << self.field) - 1
            votes = self.votes_after(votes, chosen[: i + 1])
        return votes, count

    def of_factor(self, votes: int, factor: int) -> Sequence[int]:
        """Return the votes for each value of a factor."""
        shift, mask, form = self._places[factor]
        return form.unpack((votes >> shift & mask).to_bytes(form.size, "little"))

    def starts(self, shares: Iterable[float]) -> list[Literals]:
        """Return missing combinations, of the factors that have the most of them; none if none is.

        shares: in [0, 1), how far along them each is taken.
        """
        largest = max(self.by_target, key=lambda target: len(self.by_target[target]), default=())
        combinations = list(self.by_target.get(largest, ()))
        if not combinations:
            return []
        return [combinations[int(share * len(combinations))] for share in shares]

    def exclude(self, combination: Literals) -> None:
        """Take out a combination that no row can have."""
        self.by_target[tuple(self._model.factor_of[n] for n in combination)].pop(combination, None)
        if len(combination) == 1:
            self._first &= ~(1 << self.field * combination[0])
        for literal, remaining, last in _splits(combination):
            self._votes[literal][remaining] &= ~(1 << self.field * last)

    def restore(self, combination: Literals) -> None:
        """Let a combination be missing again that a row had."""
        self.by_target[tuple(self._model.factor_of[n] for n in combination)][combination] = None
        if len(combination) == 1:
            self._first |= 1 << self.field * combination[0]
        for literal, remaining, last in _splits(combination):
            votes = self._votes[literal]
            votes[remaining] = votes.get(remaining, 0) | 1 << self.field * last

    def remove_row(self, row: Mapping[int, int]) -> None:
        """Take out what a row has, or a part of one. row: factor -> literal."""
        values = [row.get(f, -1) for f in range(len(self._model.sizes))]
        for take, combinations in zip(self._take, self.by_target.values(), strict=True):
            combinations.pop(take(values), None)
        literals = sorted(row.values())
        mask = ~self.spread(sum(1 << n for n in literals))
        self._first &= mask
        for literal in literals:
            votes = self._votes[literal]
            remaining = [n for n in literals if n != literal]
            for width in self._widths:
                for part in itertools.combinations(remaining, max(0, width - 2)):
                    if part in votes:
                        votes[part] &= mask


def _splits(combination: Literals) -> Iterator[tuple[int, Literals, int]]:
    """Yield each way to take one literal and a last one out: (literal, the others, last)."""
    for i, last in enumerate(combination):
        shorter = combination[:i] + combination[i + 1 :]
        for j, literal in enumerate(shorter):
            yield literal, shorter[:j] + shorter[j + 1 :], last


def _field(factors: int, widths: Sequence[int]) -> tuple[int, str]:
    """Return the bits of a field that holds the most votes for one value, and their code."""
    votes = sum(math.comb(factors, max(0, width - 1)) for width in widths)
    return (16, "H") if votes < 1 << 16 else (32, "I")
