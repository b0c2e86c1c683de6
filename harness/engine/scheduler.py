"""Run the cases of a plan in gangs and yield events; retry, replace or stop after failures.

One thread and one selector drive several gangs at once, as slots allow. Torch-free.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections import deque
from typing import TYPE_CHECKING

from harness.engine.forkserver_pool import Pool
from harness.engine.gang import Gang
from harness.engine.gang_notices import GangDead, GangReady, Notice, State, watch
from harness.engine.job_run import JobRun, job_runs
from harness.engine.task_outcome import Ended, Outcome, case_result, with_history, write_case_log
from harness.errors import InfrastructureError
from harness.record.events import CaseEnded, Event, GangEnded, GangStarted
from harness.record.formatting import numbers_text
from harness.record.result import CaseResult, Verdict
from harness.report import failure_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.engine.gang_starter import GangStarter
    from harness.engine.run_options import RunOptions
    from harness.plan.plan import Plan

START_ATTEMPTS = 2  # a job is given up after this many consecutive gangs failed to start
_GOOD = (Verdict.PASSED, Verdict.FLAKY)


def run(plan: Plan, options: RunOptions, pool: GangStarter | None = None) -> Iterator[Event]:
    """Run every case of the plan and yield a `CaseEnded` for each.

    If a case runs again, its last `CaseEnded` counts. Only `options.until` can end the run earlier.
    The caller records refused cases. Closing the iterator, an exception in its consumer, or the end
    of the controller ends all processes. With `pool`, its processes stay warm for the caller's next
    run and end when the caller closes it.
    """
    with contextlib.nullcontext(pool) if pool is not None else Pool() as owner:
        launcher = _Launcher(plan, options, owner)
        try:
            yield from launcher.events()
        finally:
            launcher.abandon()


class _Launcher:
    def __init__(self, plan: Plan, options: RunOptions, pool: GangStarter) -> None:
        self._options = options
        self._pool = pool
        self._slots = pool.slots(options.slots, options.devices)
        runs = (job_runs(job, options, self._slots) for job in plan.jobs)
        self._waiting = deque(itertools.chain(*runs))
        self._active: list[JobRun] = []
        self._lost: dict[int, str] = {}  # device that is no longer used -> why its last gang ended
        self._gangs = 0
        self._stopping = False

    def events(self) -> Iterator[Event]:
        until = self._options.until
        while self._waiting or self._active:
            if until is not None and time.monotonic() >= until:
                return
            self._fill()
            gangs = [active.gang for active in self._active if active.gang is not None]
            if len(gangs) == len(self._active):  # otherwise a job can proceed at once
                watch(gangs, self._slots.next_look(until) if self._waiting else until)
            for active in list(self._active):
                for notice in active.gang.poll() if active.gang else []:
                    yield from self._on(active, notice)
                if active in self._active:  # otherwise it waits for another device
                    yield from self._advance(active)

    def abandon(self) -> None:
        """End the gangs of an interrupted run without waiting for them."""
        for active in self._active:
            if active.gang is not None:
                active.gang.abandon()

    def _fill(self) -> None:
        """Start gangs for waiting jobs, in order, while slots are free."""
        while self._waiting:
            active = self._waiting[0]
            if self._slots.can_hold(active.need, active.avoid):
                active.share = self._slots.take(active.need, active.avoid)
                if active.share is None:
                    return
            self._active.append(self._waiting.popleft())
            if active.share is not None and active.queue and not self._stopping:
                self._start(active)

    def _start(self, active: JobRun) -> None:
        assert active.share is not None
        self._gangs += 1
        active.number, active.ran, active.suspects.ended = self._gangs, 0, []
        share = active.share
        spec = dataclasses.replace(active.spec, devices=share.devices, place=share.place)
        try:
            active.gang = Gang(self._pool, spec)
        except InfrastructureError:
            if not self._slots.has_lost(share):
                raise
            self._wait_again(active)

    def _on(self, active: JobRun, notice: Notice) -> Iterator[Event]:
        now = time.time()
        if isinstance(notice, GangReady):
            yield GangStarted(
                time=now,
                gang=active.number,
                world_size=active.job.world_size,
                transport=active.job.transport,
                seconds=notice.seconds,
                devices=list(active.share.devices) if active.share else [],
            )
        elif isinstance(notice, Outcome):
            yield from self._on_outcome(active, notice)
        else:
            active.gang = None
            failed = not notice.ready and not self._stopping
            active.failed_starts += failed
            lost = self._quarantine(active, notice)
            moved = self._move(active, notice) if failed else ""
            reason = f"{notice.reason}{moved or lost}"
            yield GangEnded(time=now, gang=active.number, reason=reason, cases=active.ran)
            if failed and not moved:
                yield from self._on_failed_start(active, notice)
            elif notice.changed:
                yield from self._put_back(active)

    def _on_outcome(self, active: JobRun, outcome: Outcome) -> Iterator[Event]:
        if outcome.ended is Ended.NOT_BEGUN:
            active.failed_starts += 1
            if active.failed_starts < START_ATTEMPTS:
                return  # the case stays first in the queue for a fresh gang
        active.failed_starts = 0
        if outcome.is_unclear:
            yield from self._put_back(active)
            return
        result = dataclasses.replace(case_result(outcome), attempt=len(active.attempts) + 1)
        if not self._stopping and active.tries.goes_on(outcome, result):
            return
        result = active.tries.judged(active.queue[0], result)
        if result.verdict is not Verdict.PASSED:
            message = failure_text.lines(result, max_lines=None)
            result = write_case_log(outcome, result, message, self._options.log_dir)
            if result.attempt <= self._options.retries and not self._stopping:
                active.attempts.append(result)
                assert active.gang is not None
                active.gang.end("a case is tried again in a fresh gang")
                return
        ended = self._case_ended(active, with_history(result, active.attempts))
        active.end_case()
        yield ended

    def _put_back(self, active: JobRun) -> Iterator[Event]:
        """Run the cases of its gang again, since one of them changed cached weights."""
        for result in active.put_back():
            yield CaseEnded(time=time.time(), gang=active.number, result=result)

    def _quarantine(self, active: JobRun, dead: GangDead) -> str:
        """Start no further gang beside ranks that cannot be killed; return as `_move`."""
        assert active.share is not None
        devices = self._slots.quarantine(active.share, dead.unkillable)
        self._lost |= dict.fromkeys(devices, dead.reason)
        return f"; no further gang uses device {numbers_text(devices)}" if devices else ""

    def _move(self, active: JobRun, dead: GangDead) -> str:
        """Let a job wait for other devices after repeated failures to start on one of its own.

        Return what to add to the gang's end; empty if the job stays.
        """
        assert active.share is not None
        retired = self._slots.retired(active.share)
        if not retired and active.failed_starts >= START_ATTEMPTS:
            retired = self._slots.retire(active.share, dead.unready, active.need)
            self._lost |= dict.fromkeys(retired, f"{dead.reason}\n{dead.log}")
        if retired:
            self._wait_again(active)
            return f"; no further gang uses device {', '.join(map(str, retired))}"
        return self._move_from_all(active) if active.failed_starts >= START_ATTEMPTS else ""

    def _move_from_all(self, active: JobRun) -> str:
        """Let a job wait for none of its devices, if there are enough others; as `_move`.

        Gangs failed on all of them, so the cause may be the job: others may use them all the same.
        A CPU has no others: its cases would wait for the place that they had, again and again.
        """
        assert active.share is not None
        avoid = active.avoid.union(active.share.devices)
        if not active.share.devices or not self._slots.can_hold(active.need, avoid):
            return ""
        active.avoid = avoid
        self._wait_again(active)
        return f"; its cases wait for devices other than {', '.join(map(str, sorted(avoid)))}"

    def _wait_again(self, active: JobRun) -> None:
        """Let a run be the first to get another share. Failed starts on devices count no more."""
        self._release(active)
        failed = 0 if active.share and active.share.devices else active.failed_starts
        active.share, active.failed_starts = None, failed
        self._waiting.appendleft(active)

    def _release(self, active: JobRun) -> None:
        self._active.remove(active)
        if active.share is not None:
            self._slots.give_back(active.share)

    def _on_failed_start(self, active: JobRun, dead: GangDead) -> Iterator[Event]:
        if active.failed_starts < START_ATTEMPTS:
            return
        count = active.failed_starts
        text = f"{count} gangs could not start, the last because: {dead.reason}\n{dead.log}"
        yield from self._drop(active, Verdict.INFRA, "gang_start", (text,))

    def _drop(
        self, active: JobRun, verdict: Verdict, reason: str, messages: tuple[str, ...] = ()
    ) -> Iterator[Event]:
        """End all remaining cases of a job without running them."""
        cases, active.queue = [*active.queue, *itertools.chain(*active.backlog)], deque()
        active.backlog.clear()
        for case in cases:
            result = CaseResult(case_id=case.id, verdict=verdict, reason=reason, messages=messages)
            yield self._case_ended(active, with_history(result, active.attempts))
            active.attempts = []

    def _case_ended(self, active: JobRun, result: CaseResult) -> CaseEnded:
        is_bad = result.verdict not in _GOOD and result.case_id not in self._options.forgiven
        self._stopping |= self._options.fail_fast and is_bad
        return CaseEnded(time=time.time(), gang=active.number, result=result)

    def _advance(self, active: JobRun) -> Iterator[Event]:
        """Start the job's next case or gang, or finish the job."""
        if self._stopping:
            yield from self._drop(active, Verdict.NOT_RUN, "fail_fast")
        elif active.share is None:
            yield from self._drop(active, Verdict.INFRA, "gang_start", (self._too_few(),))
        if not active.queue and active.backlog:
            active.queue.extend(active.backlog.popleft())
        gang = active.gang
        if gang is None and active.queue and active.share and self._slots.has_lost(active.share):
            self._wait_again(active)
        elif gang is None and active.queue:
            self._start(active)
        elif gang is None:
            self._release(active)
        elif not active.queue:
            self._end(gang)
        elif gang.state is State.IDLE:
            yield active.started()
            case, is_rerun = active.queue[0], active.queue[0].id in active.suspects.rerun
            gang.run(active.tries.case(case).id, active.job.time_limit, sum_all=is_rerun)

    def _too_few(self) -> str:
        """Return why cases find no devices: how the last gang on each that was lost ended."""
        text = f"of {self._slots.devices} devices too few are left on which gangs can start"
        return "\n".join([text, *(f"device {d}: {reason}" for d, reason in self._lost.items())])

    def _end(self, gang: Gang) -> None:
        """End a gang that has no case left, once its cached tensors are known to be unchanged.

        If it ran a single case, that case has summed them.
        """
        if self._stopping or gang.state is not State.PROBING:
            if not self._stopping and gang.state is State.IDLE and gang.unsummed > 1:
                gang.check_sums()
            else:
                gang.end("fail_fast" if self._stopping else "done")
