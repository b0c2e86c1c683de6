"""Steer drawn cases towards pairs of values, and edges, that no case has had yet. No torch.

A drawn case is changed one axis at a time, to values that other cases were drawn with, as long as
that adds new pairs and the machine does not refuse it. The same seed gives the same cases.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.commands.fuzz_coverage import PairCoverage
from harness.commands.fuzz_shrink import batch
from harness.errors import CaseError
from harness.matrix.exactness import is_bitwise

if TYPE_CHECKING:
    from harness.commands.fuzz_space import Space
    from harness.matrix.case import MoETestConfig

TRIES = 40  # changes that are tried for a case
PLAIN = 4  # one case in so many stays as it was drawn
_OTHERS = ("layer", "total_experts", "missing", "trace", "exact")  # never changed


@dataclass
class Steering:
    """Draw the batches of one run in order. drawn: steered case -> what it was drawn as."""

    space: Space
    seed: int
    coverage: PairCoverage = field(init=False)
    drawn: dict[MoETestConfig, MoETestConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.coverage = PairCoverage(self.space)

    def batch(self, number: int) -> list[MoETestConfig]:
        """Return the cases of the next batch, all different."""
        drawn = batch(self.space, self.seed, number)
        self.coverage.know(drawn)
        pick = random.Random(f"steering {self.seed} {number}")  # noqa: S311  # no secret
        cases: dict[MoETestConfig, None] = {}
        for i, case in enumerate(drawn):
            is_plain = bool(self.space.bases) or i % PLAIN == 0
            steered = case if is_plain else self._steered(case, pick)
            self.drawn[steered] = case
            self.coverage.add(steered)
            cases[steered] = None
        return list(cases)

    def _steered(self, case: MoETestConfig, pick: random.Random) -> MoETestConfig:
        """Return the case with every change of some random ones that adds to the coverage."""
        values = {name: sorted(values) for name, values in self.coverage.values.items()}
        names = [name for name in values if len(values[name]) > 1 and name not in _OTHERS]
        for _ in range(TRIES if names else 0):
            name = pick.choice(names)
            changed = self._changed(case, {name: pick.choice(values[name])})
            if changed is not None and self.coverage.news(changed, name) > self.coverage.news(
                case, name
            ):
                case = changed
        return case

    def _changed(self, case: MoETestConfig, change: dict[str, Any]) -> MoETestConfig | None:
        """Return the case with a change, or None if it would not run, or be too large."""
        try:
            changed = case.replace(**change)
        except CaseError:
            return None
        if changed == case or not self.space.holds(changed) or not self.space.runs(changed):
            return None
        return changed if changed.exact == is_bitwise(changed) else None
