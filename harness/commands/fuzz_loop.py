"""Run batch after batch of random cases on warm gangs, and shrink the first failures.

Each batch is a plan for the engine; the processes that gangs are forked from stay warm from batch
to batch. No torch.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from harness.commands import fuzz_report
from harness.commands.fuzz_regressions import Keeper
from harness.commands.fuzz_report import ALARMS
from harness.commands.fuzz_shrink import TimeIsUp, shrink, shrink_by_field
from harness.commands.fuzz_steering import Steering
from harness.engine import scheduler
from harness.engine.gang import START_LIMIT
from harness.engine.run_options import RunOptions
from harness.plan.plan import TIME_LIMIT, make_plan
from harness.record.cross_case import compared
from harness.record.events import CaseEnded, CaseStarted, GangStarted, RunStarted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from harness.commands.fuzz_space import Space
    from harness.engine.forkserver_pool import Pool
    from harness.matrix.case import MoETestConfig
    from harness.record.events import Event
    from harness.record.result import CaseResult
    from harness.record.run_folder import RunFolder

IDLE_BATCHES = 8  # consecutive batches without a new case after which the space is used up
SHRINK_RUNS = 60  # cases that one shrink may run
SHRINK_SECONDS = 180.0  # for one shrink; less if less of the budget is left
RESERVE, MAX_RESERVE = 0.2, 60.0  # fraction of the budget, and most seconds, for shrinking
MAX_SHRINKS = 3  # failures that are shrunk; further ones are only listed


@dataclass(kw_only=True)
class Fuzzer:
    """Hold one fuzzing run.

    results: of the cases drawn; cases that a shrink runs are only in the folder. smallest: results
    of the smallest failing cases. earlier: case id -> ids of the cases that ran before it in its
    gang.
    """

    space: Space
    seed: int
    folder: RunFolder
    pool: Pool
    slots: int = 1
    time_limit: float = TIME_LIMIT
    verbose: bool = False
    undeclared: bool = False
    keeper: Keeper = field(default_factory=lambda: Keeper(path=None, is_named=False))
    results: dict[str, CaseResult] = field(default_factory=dict)
    smallest: list[CaseResult] = field(default_factory=list)
    earlier: dict[str, tuple[str, ...]] = field(default_factory=dict)
    steering: Steering = field(init=False)
    failures: int = 0

    def __post_init__(self) -> None:
        self.steering = Steering(self.space, self.seed)

    def warm(self, cases: list[MoETestConfig]) -> None:
        """Start a gang and end it, so that the budget does not pay for the first start."""
        with self._events(cases, time.monotonic() + START_LIMIT) as events:
            next((event for event in events if isinstance(event, GangStarted)), None)

    def go(self, until: float, max_cases: int | None, *, stop_at_first: bool) -> None:
        """Run batches until the time (of `time.monotonic`) or the number of cases is reached."""
        number = idle = 0
        reserve = min(RESERVE * (until - time.monotonic()), MAX_RESERVE)
        while time.monotonic() < until and idle < IDLE_BATCHES:
            if max_cases is not None and len(self.results) >= max_cases:
                return
            cases = self._new_cases(number, max_cases)
            idle = 0 if cases else idle + 1
            failed = self._run(cases, until, reserve) if cases else []
            self._shrink_all(number, cases, failed, until)
            if failed and stop_at_first:
                return
            _show(fuzz_report.totals_line(self.results.values()))
            number += 1

    def _new_cases(self, number: int, max_cases: int | None) -> list[MoETestConfig]:
        """Return the cases of a batch that have not run yet, at most as many as may still run."""
        in_batch = self.steering.batch(number)
        cases = [case for case in in_batch if case.id not in self.results]
        return cases if max_cases is None else cases[: max_cases - len(self.results)]

    def _run(self, cases: list[MoETestConfig], until: float, reserve: float) -> list[CaseResult]:
        """Run a batch until the time is over, and return its failures.

        reserve: seconds to stop earlier once a case has failed that is to be shrunk.
        """
        ids = [case.id for case in cases]
        assert len(set(ids)) == len(ids), "a case drawn twice would be counted twice"
        self.folder.append(RunStarted(time=time.time(), cases=ids))
        reserve = reserve if self.failures < MAX_SHRINKS else 0.0
        failed: list[CaseResult] = []
        with closing(self._results(cases, until)) as results:
            for result in results:
                failed += [result] if result.verdict in ALARMS else []
                if time.monotonic() >= until - (reserve if failed else 0):
                    break
        return failed

    def _results(self, cases: list[MoETestConfig], until: float) -> Generator[CaseResult]:
        """Run cases; record, print and yield each result, and note what ran before it."""
        gangs: dict[int, tuple[str, ...]] = {}
        with self._events(cases, until) as events:
            for event in events:
                self.folder.append(event)
                if isinstance(event, CaseStarted):
                    self.earlier[event.case_id] = gangs.get(event.gang, ())
                    gangs[event.gang] = (*self.earlier[event.case_id], event.case_id)
                if isinstance(event, CaseEnded):
                    self.results[event.result.case_id] = event.result
                    path, verbose = self.folder.path, self.verbose
                    _show(*fuzz_report.case_lines(event.result, path, verbose=verbose))
                    yield event.result

    def _events(self, cases: list[MoETestConfig], until: float) -> closing[Generator[Event]]:
        plan = make_plan(cases, self.space.machine, time_limit=self.time_limit)
        options = RunOptions(
            log_dir=self.folder.log_dir,
            slots=self.slots,
            devices=self.space.machine.devices,
            rank_options={"save_tensors": None, "undeclared": self.undeclared},
            until=until,
        )
        events: Iterator[Event] = compared(scheduler.run(plan, options, self.pool))
        return closing(cast("Generator[Event]", events))

    def _shrink_all(
        self, number: int, cases: list[MoETestConfig], failed: list[CaseResult], until: float
    ) -> None:
        """Shrink the first failures of a batch; each gets an equal part of the remaining time."""
        by_id = {case.id: case for case in cases}
        to_shrink = failed[: max(MAX_SHRINKS - self.failures, 0)]
        self.failures += len(failed)
        for i, result in enumerate(to_shrink):
            now = time.monotonic()
            seconds = min((until - now) / (len(to_shrink) - i), SHRINK_SECONDS)
            self._shrink(number, result, by_id[result.case_id], now + seconds)

    def _shrink(self, number: int, result: CaseResult, case: MoETestConfig, until: float) -> None:
        """Show the smallest case that has the same verdict when it runs alone."""
        alone: dict[str, CaseResult] = {}

        def fails(tried: MoETestConfig) -> bool:
            if tried.id not in alone:
                if len(alone) > SHRINK_RUNS:
                    return False
                alone[tried.id] = self._run_alone(tried, until)
            return alone[tried.id].verdict is result.verdict

        origin = self.steering.drawn[case]
        try:
            is_repeatable = fails(case)
            drawn_fails = is_repeatable and (origin == case or fails(origin))
        except TimeIsUp:
            _show(f"no time left to run it alone: {case.id}")
            return
        if not is_repeatable:
            _show(fuzz_report.dependent_line(alone[case.id], self.earlier.get(case.id, ())))
            return
        if drawn_fails:
            least = shrink(self.space, self.seed, number, origin, fails, until)
        else:
            least = shrink_by_field(self.space, case, fails, until)
        smallest = alone[least.id]
        self.smallest.append(smallest)
        _show(*fuzz_report.smallest_lines(smallest, len(alone), self.folder.path))

    def _run_alone(self, case: MoETestConfig, until: float) -> CaseResult:
        """Run one case in a fresh gang. Raises TimeIsUp if it does not end in time."""
        with self._events([case], until) as events:
            ended = [event for event in events if isinstance(event, CaseEnded)]
        if not ended:
            raise TimeIsUp
        self.folder.append(ended[-1])
        return ended[-1].result


def _show(*lines: str) -> None:
    if lines:
        print("\n".join(lines), flush=True)
