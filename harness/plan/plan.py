"""Turn points and a machine into a plan: jobs to run, and refused points with their reasons.

No torch: a plan for another chip, or for a CI pipeline, is made on any machine.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.plan import cost, row_needs
from harness.plan.memo import axes_read
from harness.plan.refusals import Judge
from moe.errors import MoEError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from harness.matrix.case import MoETestConfig
    from harness.plan.machine import Machine
    from moe.spec import Reason

TIME_LIMIT = 120.0  # seconds a case may take, unless its suite sets a limit


@dataclass(frozen=True, kw_only=True)
class Job:
    """Hold cases that one gang can run one after another, in this order."""

    world_size: int
    device: str  # "cpu" | "cuda" (ROCm's too)
    transport: str  # "gloo" (cpu) | "nccl" (each rank owns a device) | "staged" (ranks share)
    cases: tuple[MoETestConfig, ...]
    time_limit: float = TIME_LIMIT  # seconds that each of them may take
    memory_share: float = 0.0  # of what a plan may fill: the largest share that a case takes


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Hold a point that does not run, and the reason."""

    case: MoETestConfig
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold every point in exactly one of `jobs` and `refused`."""

    jobs: tuple[Job, ...]
    refused: tuple[Refusal, ...]
    machine: Machine

    @property
    def cases(self) -> tuple[MoETestConfig, ...]:
        return tuple(case for job in self.jobs for case in job.cases)

    def without(self, done: Collection[str]) -> Plan:
        """Return the plan without the cases that have these ids."""
        jobs = []
        for job in self.jobs:
            cases = tuple(case for case in job.cases if case.id not in done)
            if cases:
                jobs.append(replace(job, cases=cases))
        return replace(self, jobs=tuple(jobs))

    def repeated(self, times: int) -> Plan:
        """Return the plan with all cases of each job `times` times, one round after another."""
        return replace(self, jobs=tuple(replace(j, cases=j.cases * times) for j in self.jobs))


def make_plan(
    points: Iterable[MoETestConfig], machine: Machine, *, time_limit: float = TIME_LIMIT
) -> Plan:
    """Sort points into jobs and refusals. `experts: auto` becomes a member that supports the case.

    Raises UsageError for a member that no table has and no import path loads.
    """
    judge = Judge(machine)
    runnable: dict[MoETestConfig, None] = {}
    refused: dict[MoETestConfig, Refusal] = {}
    for point in points:
        try:
            case, reason = judge(point)
        except MoEError as error:
            raise UsageError(f"case {point.id}: {error}") from error
        if reason is None:
            runnable[case] = None
        else:
            refused[case] = Refusal(case=case, reason=reason)
    jobs = _jobs(runnable, machine, time_limit)
    return Plan(jobs=jobs, refused=tuple(refused.values()), machine=machine)


def _jobs(cases: Iterable[MoETestConfig], machine: Machine, time_limit: float) -> tuple[Job, ...]:
    """Return one job per world size, small worlds first.

    In a job, cases that share kernels are neighbours.
    """
    worlds: dict[int, list[MoETestConfig]] = defaultdict(list)
    for case in cases:
        worlds[case.world_size].append(case)
    return tuple(
        Job(
            world_size=world,
            device=machine.platform.device,
            transport=_transport(world, machine),
            cases=tuple(sorted(worlds[world], key=compile_key)),
            time_limit=time_limit,
            memory_share=_largest_share(worlds[world], machine),
        )
        for world in sorted(worlds)
    )


def _largest_share(cases: Iterable[MoETestConfig], machine: Machine) -> float:
    """Return the largest share of the memory that a case takes; equal cases are estimated once."""
    values = attrgetter(*axes_read(row_needs.memory(machine, "")))
    different = {values(case): case for case in cases}.values()
    return max(cost.memory_share(case.layer_spec, machine) for case in different)


def _transport(world_size: int, machine: Machine) -> str:
    if machine.platform.device == "cpu":
        return "gloo"
    return "nccl" if world_size <= machine.devices else "staged"


def compile_key(case: MoETestConfig) -> tuple[object, ...]:
    """Return a sort key that makes cases with equal kernels, weights and references neighbours."""
    return (case.experts, case.quant, case.dtype, case.n, case.k, case.num_experts, case.seed)
