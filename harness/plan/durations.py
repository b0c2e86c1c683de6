"""Estimate how long cases and the start of gangs take, from an earlier run if there is one.

Only the proportions matter: shards are balanced by them, and a time budget chooses by them. No
torch.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from harness.plan.cost import case_seconds
from harness.record.events import CaseEnded, GangStarted
from harness.record.run_folder import RunFolder
from harness.record.summary import BAD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.matrix.case import MoETestConfig

START_SECONDS = 3.0  # of a gang, if none of its world size was recorded


@dataclass(frozen=True, kw_only=True)
class Durations:
    """Recorded seconds. cases: by id. starts: by world size. failed: ids that did not pass."""

    cases: Mapping[str, float] = field(default_factory=dict)
    starts: Mapping[int, float] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    revision: str | None = None  # of the code that ran
    scale: float = 1.0  # recorded seconds for one estimated second

    def of(self, case: MoETestConfig) -> float:
        """Return the seconds of a case: recorded, or else estimated from its sizes."""
        recorded = self.cases.get(case.id)
        return self.scale * case_seconds(case) if recorded is None else recorded

    def start(self, world_size: int) -> float:
        """Return the seconds until a gang is ready."""
        known = self.starts.get(world_size)
        return max(self.starts.values(), default=START_SECONDS) if known is None else known


def of_run(path: Path) -> Durations:
    """Read an earlier run's folder. Raises UsageError if it is none."""
    cases: dict[str, float] = {}
    failed: set[str] = set()
    starts: dict[int, list[float]] = defaultdict(list)
    folder = RunFolder.open(path)
    for event in folder.events():
        if isinstance(event, GangStarted):
            starts[event.world_size].append(event.seconds)
        elif isinstance(event, CaseEnded) and event.result.seconds > 0:
            cases[event.result.case_id] = event.result.seconds
        if isinstance(event, CaseEnded):
            (failed.add if event.result.verdict in BAD else failed.discard)(event.result.case_id)
    recorded = zip(folder.cases_of(cases), cases.values(), strict=True)
    ratios = [s / case_seconds(case) for case, s in recorded]
    return Durations(
        cases=cases,
        starts={world: median(seconds) for world, seconds in starts.items()},
        failed=frozenset(failed),
        revision=folder.info.git,
        scale=median(ratios) if ratios else 1.0,
    )
