"""Run one case after another on warm gangs, for a caller that asks for them one by one. Torch-free.

A verdict that was given cannot be taken back here. So after each case all cached tensors are
summed, and a case that changed some of them is told from those before it at once.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from harness.engine.job_run import gang_spec
from harness.engine.other_seeds import Tries
from harness.engine.slots import Slots
from harness.engine.task_outcome import Ended, case_result, with_history, write_case_log
from harness.engine.warm_gangs import START_ATTEMPTS, GangStartError
from harness.record.result import CaseResult, Verdict
from harness.report import failure_text

if TYPE_CHECKING:
    from harness.engine.gang_spec import GangSpec
    from harness.engine.run_options import RunOptions
    from harness.engine.task_outcome import Outcome
    from harness.engine.warm_gangs import WarmGangs
    from harness.matrix.case import MoETestConfig
    from harness.plan.plan import Job


class SingleCases:
    """Run cases on warm gangs."""

    def __init__(
        self, gangs: WarmGangs, options: RunOptions, devices: tuple[int, ...] = (), sharers: int = 1
    ) -> None:
        """devices: GPUs to use, as torch counts them; none on a CPU. sharers: callers like this
        one that run cases at the same time on the same cores, and so share them.
        """
        self._gangs, self._options = gangs, options
        self._devices, self._sharers = devices, sharers

    def run(self, job: Job, case: MoETestConfig) -> CaseResult:
        """Return the result of a case of a job, after as many retries as the options allow."""
        attempts: list[CaseResult] = []
        tries = Tries(further=self._options.other_seeds)
        while True:
            result = self._attempt(job, case, tries, len(attempts) + 1)
            if result is None:
                continue
            is_last = result.verdict is Verdict.PASSED or len(attempts) == self._options.retries
            if is_last:
                return with_history(result, attempts)
            attempts.append(result)

    def spec(self, job: Job) -> GangSpec:
        """Return the kind of gang that a job's cases need, on the devices of this caller."""
        slots = Slots(self._options.slots, len(self._devices))
        spec = gang_spec(job, self._options, slots)
        width = slots.need(job).width
        return dataclasses.replace(
            spec,
            devices=self._devices[:width],
            ranks_at_once=job.world_size * self._sharers,
        )

    def _attempt(
        self, job: Job, case: MoETestConfig, tries: Tries, number: int
    ) -> CaseResult | None:
        """Run a case once; if its gang ends before the case has begun, in a further gang.

        An attempt after a failure gets a fresh gang. None: it is to be tried with another seed.
        """
        spec = self.spec(job)
        for begun in range(1, START_ATTEMPTS + 1):
            try:
                gang = self._gangs.ready(spec)
            except GangStartError as error:
                return _infra(case, str(error))
            if number > 1 and gang.tasks:
                self._gangs.retire(gang, "a case is tried again in a fresh gang")
                gang = self._gangs.ready(spec)
            asked = tries.case(case).id
            outcome = self._gangs.run(gang, asked, job.time_limit, sum_all=True)
            is_over = outcome.ended is not Ended.NOT_BEGUN and not outcome.is_unclear
            if is_over or begun == START_ATTEMPTS:
                return self._judged(outcome, case, tries, number)
        raise AssertionError("unreachable")

    def _judged(
        self, outcome: Outcome, case: MoETestConfig, tries: Tries, number: int
    ) -> CaseResult | None:
        """Return the result of an outcome, and write the log of one that did not pass."""
        result = dataclasses.replace(case_result(outcome), attempt=number)
        if tries.goes_on(outcome, result):
            return None
        result = tries.judged(case, result)
        if result.verdict is Verdict.PASSED:
            return result
        message = failure_text.lines(result, max_lines=None)
        return write_case_log(outcome, result, message, self._options.log_dir)


def _infra(case: MoETestConfig, text: str) -> CaseResult:
    return CaseResult(case_id=case.id, verdict=Verdict.INFRA, reason="gang_start", messages=(text,))
