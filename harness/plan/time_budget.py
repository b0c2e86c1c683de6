"""Choose the most valuable cases of a plan that fit into a time budget, by estimate. No torch.

In this order: cases that failed in the run that durations are from; cases of members that did not
run there, or whose code has changed since; all others. Within each group the next case is the one
that adds the most pairs of values per second, as in a covering suite.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import NothingSelected, UsageError
from harness.matrix.case import AXES, MoETestConfig
from harness.plan.changed_members import changed, changed_files, members

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.plan.durations import Durations
    from harness.plan.plan import Job, Plan

FILL = 0.8  # fraction of the budget that estimates may fill; the rest is for what they get wrong
_NO_PAIR = 1e-3  # what a case without a new pair is worth, in pairs: the shortest first
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smh])\Z")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The part of a plan that fits. left_out: ids, in the plan's order. All seconds are estimates.

    urgent: number of cases that failed, or whose members are new or changed, and of those chosen.
    pairs: pairs of values that the chosen cases have, and those that all cases have.
    """

    plan: Plan
    budget: float  # seconds of wall time
    left_out: tuple[str, ...]
    seconds: float
    left_seconds: float
    urgent: tuple[int, int]
    pairs: tuple[int, int]

    def lines(self) -> list[str]:
        """Return what was chosen and what was left out."""
        all_urgent, urgent = self.urgent
        return [
            f"time budget: chose {len(self.plan.cases)} case(s), about {self.seconds:.0f} s; left "
            f"out {len(self.left_out)}, about {self.left_seconds:.0f} s",
            f"    chosen: {urgent} of {all_urgent} case(s) that failed or whose members are new or "
            f"changed, {self.pairs[0]} of {self.pairs[1]} pairs of values",
        ]


def seconds(text: str, option: str) -> float:
    """Return `90s`, `5m` or `2h` in seconds. Raises UsageError for anything else."""
    match = _TIME.match(text)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{option} {text!r}: give a time such as 90s, 5m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def within(plan: Plan, budget: float, durations: Durations, slots: int) -> Chosen:
    """Return the cases that fit. budget: wall time in seconds. slots: ranks at once on a device.

    Raises NothingSelected if not even one case fits.
    """
    groups = _groups(plan, durations)
    choice = _Choice(plan, FILL * budget, durations, slots)
    for group in groups:
        choice.take_from(group)
    urgent = [case.id for group in groups[:-1] for case in group]
    left_out = tuple(case.id for case in plan.cases if case.id not in choice.ids)
    if plan.cases and not choice.ids:
        shortest = min(map(choice.cost, plan.cases))
        raise NothingSelected(
            f"--time-budget: no case fits into {FILL:.0%} of {budget:g} s: the shortest takes "
            f"about {shortest:.1f} s with the start of its ranks"
        )
    return Chosen(
        plan=plan.without(left_out),
        budget=budget,
        left_out=left_out,
        seconds=FILL * budget - choice.room,
        left_seconds=sum(choice.share_seconds[case_id] for case_id in left_out),
        urgent=(len(urgent), sum(case_id in choice.ids for case_id in urgent)),
        pairs=(choice.covered.bit_count(), _union(choice.pairs.values()).bit_count()),
    )


def _groups(plan: Plan, durations: Durations) -> list[list[MoETestConfig]]:
    """Return the cases by value, the most valuable group first; without a record, one group."""
    failed = [case for case in plan.cases if case.id in durations.failed]
    unfailed = [case for case in plan.cases if case.id not in durations.failed]
    if not durations.cases:
        return [failed, [], unfailed]
    recorded = frozenset().union(*(members(MoETestConfig.from_id(c)) for c in durations.cases))
    named = frozenset().union(*map(members, plan.cases))
    fresh = (named - recorded) | changed(named, changed_files(durations.revision))
    return [
        failed,
        [case for case in unfailed if members(case) & fresh],
        [case for case in unfailed if not members(case) & fresh],
    ]


class _Choice:
    """Cases that are chosen one by one: what they cost, and the pairs of values that they have."""

    def __init__(self, plan: Plan, room: float, durations: Durations, slots: int) -> None:
        self.room = room  # seconds of wall time that are left
        self.ids: set[str] = set()
        self.covered = 0  # a bit for each pair of values
        self.pairs = _pairs(plan.cases)
        self.share_seconds = {
            case.id: durations.of(case) * _share(job, plan, slots)
            for job in plan.jobs
            for case in job.cases
        }
        self._starts = {job.world_size: durations.start(job.world_size) for job in plan.jobs}

    def cost(self, case: MoETestConfig) -> float:
        """Return the seconds of a case; the first of its world size also pays the gang's start."""
        return self.share_seconds[case.id] + self._starts.get(case.world_size, 0.0)

    def take_from(self, cases: Iterable[MoETestConfig]) -> None:
        """Choose cases while they fit, the one with the most new pairs per second first.

        A worth that was computed earlier may only have fallen since, so that the first whose new
        worth is still the highest is the best. Worths rise where a world size got its first case.
        """
        cases = list(cases)
        heap = [(-self._worth(case), i) for i, case in enumerate(cases)]
        heapq.heapify(heap)
        while heap:
            _, i = heapq.heappop(heap)
            case = cases[i]
            if case.id in self.ids or self.cost(case) > self.room:
                continue
            worth = self._worth(case)
            if heap and -heap[0][0] > worth:
                heapq.heappush(heap, (-worth, i))
                continue
            if self._take(case):
                alike = [j for j, c in enumerate(cases) if c.world_size == case.world_size]
                for j in alike:
                    heapq.heappush(heap, (-self._worth(cases[j]), j))

    def _take(self, case: MoETestConfig) -> bool:
        """Choose a case; return whether it is the first of its world size."""
        self.room -= self.cost(case)
        self.ids.add(case.id)
        self.covered |= self.pairs[case.id]
        return self._starts.pop(case.world_size, None) is not None

    def _worth(self, case: MoETestConfig) -> float:
        new = (self.pairs[case.id] & ~self.covered).bit_count()
        return max(new, _NO_PAIR) / max(self.cost(case), 1e-6)


def _pairs(cases: Iterable[MoETestConfig]) -> dict[str, int]:
    """Return for each case the pairs of values of two axes, a bit each; a seed is no value.

    Axes on which all cases have the same value are left out.
    """
    cases = list(cases)
    numbers: dict[tuple[str, object], int] = {}
    columns = [
        [numbers.setdefault((name, getattr(case, name)), len(numbers)) for case in cases]
        for name in AXES
        if name != "seed" and len({getattr(case, name) for case in cases}) > 1
    ]
    rows = zip(*columns, strict=True) if columns else [() for _ in cases]
    bits: dict[tuple[int, int], int] = {}
    return {
        case.id: _union(
            bits.setdefault(pair, 1 << len(bits)) for pair in itertools.combinations(row, 2)
        )
        for case, row in zip(cases, rows, strict=True)
    }


def _union(masks: Iterable[int]) -> int:
    return functools.reduce(operator.or_, masks, 0)


def _share(job: Job, plan: Plan, slots: int) -> float:
    """Return the fraction of the machine that a gang of the job takes, as the engine shares it."""
    devices = max(1, plan.machine.devices)
    width = min(job.world_size, devices)
    ranks = math.ceil(job.world_size / width)
    memory = math.ceil(job.memory_share * slots)
    return width * min(slots, max(ranks, memory)) / (devices * slots)
