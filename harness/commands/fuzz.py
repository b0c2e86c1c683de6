"""`python -m harness fuzz`: random whole cases on warm gangs, and the smallest case that fails.

Hypothesis draws batches of distinct cases; each batch is a plan for the engine, and the processes
that gangs are forked from stay warm from batch to batch. When a case fails, the same batch is
drawn again, with the verdicts known so far, and hypothesis shrinks the case itself: fields, not
tensors. The same seed gives the same cases in the same order. No torch.

A case whose check could not have failed (vacuous) is counted and named, but it is no alarm here:
such points are rare among random ones, and a suite refuses them, but they say nothing of the
code under test.
"""

from __future__ import annotations

import math
import re
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from harness.commands import last_lines, strategies
from harness.engine import scheduler
from harness.engine.forkserver_pool import Pool
from harness.engine.gang import START_LIMIT
from harness.errors import NothingSelected, UsageError
from harness.plan import machine, requirements
from harness.plan.manifest import describe, folder_for
from harness.plan.plan import TIME_LIMIT, make_plan
from harness.plan.selection import Selection
from harness.record.cross_case import compared
from harness.record.events import CaseEnded, CaseStarted, GangStarted, RunEnded, RunStarted
from harness.record.result import Verdict
from harness.record.run_folder import ROOT, RunFolder
from harness.record.summary import BAD, repeat_command, summarize
from harness.report import progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Generator, Iterator

    from harness.matrix.case import MoETestConfig
    from harness.plan.machine import Machine
    from harness.record.events import Event
    from harness.record.result import CaseResult

STALE = 8  # batches without a new case, one after another: the space is used up
SHRINK_RUNS = 60  # cases that one shrinking may run
SHRINK_SECONDS = 180.0  # of the budget; less where less is left
RESERVE, MOST_RESERVE = 0.2, 60.0  # of the budget, in seconds: left for shrinking once a case fails
SHRUNK = 3  # failures that are shrunk; further ones are listed as they are
ALARMS = tuple(verdict for verdict in BAD if verdict is not Verdict.VACUOUS)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_BUDGET = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smh])\Z")


class _TimeIsUp(BaseException):
    """Ends a shrinking; hypothesis would take an Exception for another failure of the case."""


class _StillFails(Exception):
    """Tells hypothesis that a case fails as the one that is shrunk."""


def seconds(text: str) -> float:
    """`90s`, `5m` or `2h` in seconds. Raises UsageError for anything else."""
    match = _BUDGET.match(text)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--budget {text!r}: give a time such as 90s, 5m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def _settings(count: int, *phases: Phase) -> settings:
    """No example database and no deadline: what is drawn depends on the seed alone."""
    return settings(
        database=None,
        deadline=None,
        max_examples=count,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def _seed_of(seed: int, number: int) -> int:
    return seed * 2**32 + number


def batch(space: strategies.Space, seed: int, number: int) -> list[MoETestConfig]:
    """The cases of one batch, all different; the same for the same arguments."""
    found: dict[MoETestConfig, None] = {}

    @hypothesis.seed(_seed_of(seed, number))
    @_settings(space.batch, Phase.generate)
    @given(case=strategies.configs(space))
    def collect(case: MoETestConfig) -> None:
        found[case] = None

    collect()
    return list(found)


def shrink(
    space: strategies.Space,
    seed: int,
    number: int,
    failing: MoETestConfig,
    fails: Callable[[MoETestConfig], bool],
    until: float = math.inf,
) -> MoETestConfig:
    """The simplest case found that `fails`, starting from one of the batch that does.

    until: when to be content with the simplest so far, on `time.monotonic`'s clock.
    Every case before `failing` counts as right, so that hypothesis draws as `batch` did and then
    shrinks that very case; it never asks again of those before. So the rest is done field by
    field. `fails` must give one case always the same answer.
    """
    best, reached = failing, False

    @hypothesis.seed(_seed_of(seed, number))
    @_settings(space.batch, Phase.generate, Phase.shrink)
    @given(case=strategies.configs(space))
    def check(case: MoETestConfig) -> None:
        nonlocal best, reached
        _check_time(until)
        reached = reached or case == failing
        if reached and (case == failing or fails(case)):
            best = case
            raise _StillFails

    try:
        check()
    except _TimeIsUp:
        return best
    except _StillFails:
        return _simplest(space, best, fails, until)
    raise AssertionError(f"batch {number} of seed {seed} was drawn anew without {failing.id}")


def _check_time(until: float) -> None:
    if time.monotonic() >= until:
        raise _TimeIsUp


def _simplest(
    space: strategies.Space,
    case: MoETestConfig,
    fails: Callable[[MoETestConfig], bool],
    until: float,
) -> MoETestConfig:
    """A case that fails, no field of which can be made simpler by itself, if time is left."""
    try:
        for simpler in strategies.simpler(space, case):
            _check_time(until)
            if fails(simpler):
                return _simplest(space, simpler, fails, until)
    except _TimeIsUp:
        pass
    return case


@dataclass(kw_only=True)
class Fuzzer:
    """One fuzzing run. results: of the cases drawn; shrinking's own are only in the folder."""

    space: strategies.Space
    seed: int
    folder: RunFolder
    pool: Pool
    slots: int = 1
    time_limit: float = TIME_LIMIT
    verbose: bool = False
    results: dict[str, CaseResult] = field(default_factory=dict)
    smallest: list[CaseResult] = field(default_factory=list)  # of the failures that were shrunk
    before: dict[str, tuple[str, ...]] = field(default_factory=dict)  # those earlier in its gang

    def warm(self, cases: list[MoETestConfig]) -> None:
        """Start a gang and end it, so that the budget does not pay for the first start."""
        with self._events(cases, time.monotonic() + START_LIMIT) as events:
            next((event for event in events if isinstance(event, GangStarted)), None)

    def go(self, until: float, most: int | None, *, stop_at_first: bool) -> None:
        """Batch after batch until the time (of `time.monotonic`), or so many cases."""
        number = stale = tries = 0
        reserve = min(RESERVE * (until - time.monotonic()), MOST_RESERVE)
        while time.monotonic() < until and stale < STALE:
            left = None if most is None else most - len(self.results)
            if left is not None and left <= 0:
                return
            new = [c for c in batch(self.space, self.seed, number) if c.id not in self.results]
            stale = 0 if new else stale + 1
            failed = self._run(new[:left], until, reserve * (tries < SHRUNK)) if new else []
            tries, shrunk = tries + len(failed), failed[: max(SHRUNK - tries, 0)]
            for i, result in enumerate(shrunk):
                each = (until - time.monotonic()) / (len(shrunk) - i)
                case = {c.id: c for c in new}[result.case_id]
                self._shrink(number, result, case, time.monotonic() + min(each, SHRINK_SECONDS))
            if failed and stop_at_first:
                return
            self._say()
            number += 1

    def _run(self, cases: list[MoETestConfig], until: float, reserve: float) -> list[CaseResult]:
        """Run a batch and return what failed; a batch that the time cuts short is left there.

        reserve: how much earlier, if one has failed.
        """
        ids = [case.id for case in cases]
        assert len(set(ids)) == len(ids), "a fuzzer that repeats a case says less than it counts"
        self.folder.append(RunStarted(time=time.time(), cases=ids))
        failed: list[CaseResult] = []
        gangs: dict[int, tuple[str, ...]] = {}
        with self._events(cases, until) as events:
            for event in events:
                self.folder.append(event)
                if isinstance(event, CaseStarted):
                    self.before[event.case_id] = gangs.get(event.gang, ())
                    gangs[event.gang] = (*self.before[event.case_id], event.case_id)
                if not isinstance(event, CaseEnded):
                    continue
                self.results[event.result.case_id] = event.result
                self._show(event.result)
                failed += [event.result] if event.result.verdict in ALARMS else []
                if time.monotonic() >= until - (reserve if failed else 0):
                    break
        return failed

    def _events(self, cases: list[MoETestConfig], until: float) -> closing[Generator[Event]]:
        plan = make_plan(cases, self.space.machine, time_limit=self.time_limit)
        options = scheduler.RunOptions(
            log_dir=self.folder.log_dir,
            slots=self.slots,
            rank_options={"save_tensors": None},
            until=until,
        )
        events: Iterator[Event] = compared(scheduler.run(plan, options, self.pool))
        return closing(cast("Generator[Event]", events))

    def _shrink(self, number: int, result: CaseResult, case: MoETestConfig, until: float) -> None:
        """Find the smallest case with the same verdict by itself, and show it."""
        known: dict[str, CaseResult] = {}

        def fails(tried: MoETestConfig) -> bool:
            if tried.id not in known:
                if len(known) > SHRINK_RUNS:
                    return False
                known[tried.id] = self._again(tried, until)
            return known[tried.id].verdict is result.verdict

        try:
            alone = fails(case)
        except _TimeIsUp:
            print(f"no time left to run it by itself: {case.id}", flush=True)
            return
        if not alone:
            self._say_dependent(known[case.id])
            return
        least = known[shrink(self.space, self.seed, number, case, fails, until).id]
        self.smallest.append(least)
        print(f"smallest case after {len(known)} more runs; it fails alone, in a fresh gang:")
        print("\n".join(progress.case_lines(least, self.folder.path)), flush=True)

    def _say_dependent(self, alone: CaseResult) -> None:
        """What is said of a case that failed among others; that failure stays as it is."""
        verdict = "passes" if alone.verdict is Verdict.PASSED else f"comes to {alone.verdict}"
        earlier = self.before.get(alone.case_id, ())
        why = "it depends on what ran before it in its gang" if earlier else "it is not repeatable"
        print(f"{alone.case_id} {verdict} alone: {why}{': ' * bool(earlier)}{' '.join(earlier)}")

    def _again(self, case: MoETestConfig, until: float) -> CaseResult:
        """One case by itself, in a fresh gang. Raises _TimeIsUp where it is not done in time."""
        with self._events([case], until) as events:
            ended = [event for event in events if isinstance(event, CaseEnded)]
        if not ended:
            raise _TimeIsUp
        self.folder.append(ended[-1])
        return ended[-1].result

    def _show(self, result: CaseResult) -> None:
        if self.verbose or result.verdict not in (Verdict.PASSED, Verdict.VACUOUS):
            print("\n".join(progress.case_lines(result, self.folder.path)), flush=True)
        elif result.verdict is Verdict.VACUOUS:
            print(f"vacuous: {result.case_id}: {'; '.join(result.messages)}", flush=True)

    def _say(self) -> None:
        verdicts = [result.verdict for result in self.results.values()]
        bad = sum(verdict in ALARMS for verdict in verdicts)
        idle = verdicts.count(Verdict.VACUOUS)
        more = f", {idle} vacuous" if idle else ""
        print(f"{len(verdicts)} distinct cases, {bad} of them bad{more}", flush=True)


def main(args: argparse.Namespace) -> int:
    """Draw, run, shrink; the exit codes are those of `run`."""
    began, budget = time.time(), seconds(args.budget)
    if args.seed < 0 or (args.cases is not None and args.cases < 1):
        raise UsageError("--seed must not be negative, and --cases must be at least 1")
    if args.layer and args.experts:
        raise UsageError("--layer brings experts of its own; leave --experts out")
    here = _machine(args)
    requirements.check(args.require, here)
    space = strategies.space_for(here, args.experts, args.layer)
    first = batch(replace(space, batch=1), args.seed, 0)
    if not first:
        raise NothingSelected(f"no case of {space.under_test} would run here")
    chosen = Selection(points=(), suite="fuzz", time_limit=args.time_limit or TIME_LIMIT)
    info = describe(args.argv, chosen, make_plan([], space.machine), seed=args.seed)
    path = args.out or folder_for(ROOT, "fuzz")
    print(f"fuzzing {space.under_test} with seed {args.seed}; folder {path}", flush=True)
    with RunFolder.create(path, info) as folder, Pool() as pool:
        fuzzer = Fuzzer(
            space=space,
            seed=args.seed,
            folder=folder,
            pool=pool,
            slots=args.slots,
            time_limit=chosen.time_limit,
            verbose=args.verbose,
        )
        try:
            fuzzer.warm(first)
            fuzzer.go(time.monotonic() + budget, args.cases, stop_at_first=args.fail_fast)
        finally:  # an interrupted one says what it has found, too
            folder.name_cases(list(fuzzer.results))
            code = _finish(fuzzer, began)
        return code


def _finish(fuzzer: Fuzzer, began: float) -> int:
    """Record and print what it came to."""
    took = time.time() - began
    summary = summarize(list(fuzzer.results), 0, fuzzer.results, took)
    counts = summary.to_json()
    whole = {name: count for name, count in counts.items() if name != "seconds"}
    fuzzer.folder.append(RunEnded(time=time.time(), seconds=took, counts=whole))
    fuzzer.folder.write_summary(counts)
    for result in fuzzer.smallest:
        print(f"smallest {result.verdict}: {repeat_command(result.case_id)}")
    counted = replace(summary, counts={**summary.counts, Verdict.VACUOUS: 0})
    code = last_lines.code_with_record(counted.exit_code(), fuzzer.folder)
    print(summary.line(), flush=True)
    return code


def _machine(args: argparse.Namespace) -> Machine:
    """This machine, or part of its devices."""
    here = machine.detect()
    if args.devices is None:
        return here
    if not 1 <= args.devices <= here.devices:
        raise UsageError(f"--devices {args.devices}: this machine has {here.devices} of them")
    return replace(here, devices=args.devices)
