"""A small matrix file, and an engine that gives each case the verdict that a test asks for."""

from __future__ import annotations

from harness.record.events import CaseEnded, CaseStarted, GangEnded, GangStarted
from harness.record.result import CaseResult, Verdict

TEXT = """\
version: 1
defaults: {shapes: [[2, 256, 128]], num_experts: [8], top_k: [2], experts: [torch_loop]}
suites:
  smoke:
    description: x
    time_limit_s: 33
    retries: 1
    blocks:
      - {layouts: [{}, {tp: 2}], seed: [0, 1], quant: [none, fp8_block]}
      - {experts: [flashinfer_cutlass]}
  nothing:
    description: x
    blocks:
      - {experts: [flashinfer_cutlass]}
"""
BASE = "m:2-n:256-k:128-e:8-topk:2-experts:torch_loop"


class FakeEngine:
    """Gives each case the verdict that `verdicts` holds for its id, else passed."""

    def __init__(self):
        self.verdicts = {}
        self.calls = []
        self.stop_after = None  # (cases, exception)
        self.closed = 0

    def run(self, plan, options, pool=None):
        self.calls.append((plan, options))
        try:
            yield from self._events(plan)
        finally:
            self.closed += 1

    def _events(self, plan):
        for number, job in enumerate(plan.jobs, 1):
            yield GangStarted(
                time=1.0, gang=number, world_size=job.world_size, transport="gloo", seconds=0.1
            )
            for case in job.cases:
                if self.stop_after is not None and self.stop_after[0] == self.ran:
                    raise self.stop_after[1]
                yield CaseStarted(time=1.0, case_id=case.id, gang=number)
                yield CaseEnded(time=1.0, gang=number, result=self._result(case))
            yield GangEnded(time=1.0, gang=number, reason="done", cases=len(job.cases))

    ran = 0

    def verdict_of(self, case):
        return self.verdicts.get(case.id, Verdict.PASSED)

    def _result(self, case):
        self.ran += 1
        verdict = self.verdict_of(case)
        messages = () if verdict is Verdict.PASSED else ("rank 0: wrong",)
        return CaseResult(case_id=case.id, verdict=verdict, seconds=0.5, messages=messages)
