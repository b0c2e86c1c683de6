"""Split a job among gangs: as many as fit into the machine at once, each with cases of its own.

Gangs take batches of neighbouring cases, which share kernels, weights and references. The longest
batch comes first, and batches are small enough that all gangs end at about the same time.
Torch-free.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.engine.gang_spec import PRELOAD, GangSpec
from harness.engine.other_seeds import Tries
from harness.engine.suspects import Suspects
from harness.plan.cost import case_seconds
from harness.record.events import CaseStarted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.engine.gang import Gang
    from harness.engine.run_options import RunOptions
    from harness.engine.slots import Need, Share, Slots
    from harness.matrix.case import MoETestConfig
    from harness.plan.plan import Job
    from harness.record.result import CaseResult

BATCH = 8  # cases that a gang takes at a time, at most, if several gangs share a job's cases
BATCHES = 2  # that each gang takes at least, where there are enough cases


@dataclass(kw_only=True, eq=False)
class JobRun:
    """A job in progress: its queue, and its gang while it has one."""

    job: Job
    spec: GangSpec
    need: Need
    queue: deque[MoETestConfig]
    backlog: deque[tuple[MoETestConfig, ...]]  # shared with the other gangs of the job
    share: Share | None = None  # from its first gang to its last
    gang: Gang | None = None
    number: int = 0  # the gang's
    failed_starts: int = 0
    avoid: frozenset[int] = frozenset()  # devices on which none of its gangs started
    attempts: list[CaseResult] = field(default_factory=list)  # earlier ones of the current case
    ran: int = 0  # cases in this gang
    suspects: Suspects = field(default_factory=Suspects)
    tries: Tries = field(default_factory=Tries)  # of the current case, with other seeds

    def started(self) -> CaseStarted:
        """Count the current case as begun; return that event. A further seed is the same case."""
        self.ran += not self.tries.vacuous
        return CaseStarted(
            time=time.time(),
            case_id=self.queue[0].id,
            gang=self.number,
            attempt=len(self.attempts) + 1,
        )

    def put_back(self) -> list[CaseResult]:
        """Let the gang's cases run again, each from its own seed on; return results until then."""
        self.tries.vacuous.clear()
        return self.suspects.put_back(self.queue)

    def end_case(self) -> None:
        """Go on to the next case."""
        self.suspects.ended.append(self.queue.popleft())
        self.attempts = []
        self.tries.vacuous.clear()


def job_runs(job: Job, options: RunOptions, slots: Slots) -> list[JobRun]:
    """Return a job's gangs to be, each with a first batch."""
    need, spec = slots.need(job), gang_spec(job, options, slots)
    batches = _batches(job, slots.gangs(need))
    count = min(slots.gangs(need), len(batches))
    first = [batches.popleft() for _ in range(count)]
    return [
        JobRun(
            job=job,
            spec=spec,
            need=need,
            queue=deque(batch),
            backlog=batches,
            tries=Tries(further=options.other_seeds),
        )
        for batch in first
    ]


def gang_spec(job: Job, options: RunOptions, slots: Slots) -> GangSpec:
    """Return the kind of gang that a job's cases need; its devices are not chosen yet."""
    return GangSpec(
        world_size=job.world_size,
        device=job.device,
        transport=job.transport,
        executor=options.executor,
        options=options.rank_options,
        ranks_at_once=slots.gangs(slots.need(job)) * job.world_size,
        device_ranks=slots.per_device,
        preload=preload_of(options.executor),
    )


def preload_of(executor: str) -> tuple[str, ...]:
    """Return the modules that a forkserver imports before its gangs. executor: as of RunOptions."""
    module = executor.partition(":")[0]
    stack = ("moe.*", "harness.checks.*") if module.startswith("harness.") else ()
    return (*PRELOAD, *stack, module)


def _batches(job: Job, gangs: int) -> deque[tuple[MoETestConfig, ...]]:
    """Return a job's cases in batches, in the plan's order if one gang runs them all."""
    if gangs == 1 or not job.cases:
        return deque([tuple(job.cases)] if job.cases else [])
    size = max(1, min(BATCH, len(job.cases) // (BATCHES * gangs)))
    cases = tuple(job.cases)
    batches = [cases[start : start + size] for start in range(0, len(cases), size)]
    return deque(sorted(batches, key=_work, reverse=True))


def _work(batch: Sequence[MoETestConfig]) -> float:
    return sum(map(case_seconds, batch))
