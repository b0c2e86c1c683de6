"""Turn points and a machine into a plan: jobs to run, and refused points with their reasons.

No torch: a plan for another chip, or for a CI pipeline, is made on any machine.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.matrix.case import LAYOUT_AXES
from harness.matrix.case_list import CaseList, case_list
from harness.plan import cost, row_needs
from harness.plan.coded_judge import CodedJudge
from harness.plan.memo import axes_read
from harness.plan.refusals import Judge
from harness.plan.refused import Refused
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.oracle import AUTO

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

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
    cases: Sequence[MoETestConfig]
    time_limit: float = TIME_LIMIT  # seconds that each of them may take
    memory_share: float = 0.0  # of what a plan may fill: the largest share that a case takes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold every point in exactly one of `jobs` and `refused`."""

    jobs: tuple[Job, ...]
    machine: Machine
    refused: Refused = field(default_factory=Refused)

    @property
    def cases(self) -> CaseList:
        """Return the cases of all jobs in order."""
        lists = (case_list(job.cases) for job in self.jobs)
        return reduce(CaseList.joined, lists, case_list(()))

    def without(self, done: Collection[str]) -> Plan:
        """Return the plan without the cases that have these ids."""
        return self.where(lambda case_id: case_id not in done) if done else self

    def where(self, keep: Callable[[str], bool]) -> Plan:
        """Return the plan with the cases whose ids `keep` is true of."""
        jobs = []
        for job in self.jobs:
            cases = case_list(job.cases)
            cases = cases.where(map(keep, cases.ids()))
            if cases:
                jobs.append(replace(job, cases=cases))
        return replace(self, jobs=tuple(jobs))

    def refusing(self, reasons: Mapping[str, Reason]) -> Plan:
        """Return the plan in which the cases that have these ids are refused."""
        if not reasons:
            return self
        cases = self.cases
        cases = cases.where(case_id in reasons for case_id in cases.ids())
        refused = self.refused.joined(cases, (reasons[case_id] for case_id in cases.ids()))
        return replace(self.without(reasons), refused=refused)

    def repeated(self, times: int) -> Plan:
        """Return the plan with all cases of each job `times` times, one round after another."""
        jobs = (replace(job, cases=case_list(job.cases).repeated(times)) for job in self.jobs)
        return replace(self, jobs=tuple(jobs))


def make_plan(
    points: Iterable[MoETestConfig], machine: Machine, *, time_limit: float = TIME_LIMIT
) -> Plan:
    """Sort points into jobs and refusals. `experts: auto` becomes a member that supports the case.

    Raises UsageError for a member that no table has and no import path loads.
    """
    cases = case_list(points)
    if AUTO in cases.coding.values("experts"):
        cases = cases.with_more("experts", EXPERTS.rows)
    runnable, refused = _judged(cases, CodedJudge(Judge(machine), cases.coding))
    return Plan(
        jobs=_jobs(CaseList(cases.coding, runnable), machine, time_limit),
        refused=Refused(CaseList(cases.coding, refused), refused.values()),
        machine=machine,
    )


def _judged(cases: CaseList, judge: CodedJudge) -> tuple[dict[int, None], dict[int, Reason]]:
    """Return the points that can run, each once, and the others with their reasons."""
    runnable: dict[int, None] = {}
    refused: dict[int, Reason] = {}
    for point in cases.codes:
        try:
            code, reason = judge(point)
        except MoEError as error:
            raise UsageError(f"case {cases.coding.id(point)}: {error}") from error
        if reason is None:
            runnable[code] = None
        else:
            refused[code] = reason
    return runnable, refused


def _jobs(cases: CaseList, machine: Machine, time_limit: float) -> tuple[Job, ...]:
    """Return one job per world size, small worlds first."""
    return tuple(
        Job(
            world_size=world,
            device=machine.platform.device,
            transport=_transport(world, machine),
            cases=of_world,
            time_limit=time_limit,
            memory_share=_largest_share(of_world, machine),
        )
        for world, of_world in _by_world(cases).items()
    )


def _by_world(cases: CaseList) -> dict[int, CaseList]:
    """Return the cases of each world size; cases that share kernels are neighbours."""
    coding, of_layout = cases.coding, cases.coding.mask(LAYOUT_AXES)
    of_key = coding.mask(COMPILE_AXES)
    sizes = {bits: coding.case(bits).world_size for bits in {c & of_layout for c in cases.codes}}
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for code in cases.codes:
        alike[sizes[code & of_layout], code & of_key].append(code)
    worlds: dict[int, list[list[int]]] = defaultdict(list)
    for world, bits in sorted(alike, key=lambda key: (key[0], compile_key(coding.case(key[1])))):
        worlds[world].append(alike[world, bits])
    return {world: CaseList(coding, chain.from_iterable(of)) for world, of in worlds.items()}


def _largest_share(cases: CaseList, machine: Machine) -> float:
    """Return the largest share of the memory that a case takes; equal cases are estimated once."""
    read = cases.coding.mask(axes_read(row_needs.memory(machine, "")))
    different = CaseList(cases.coding, {code & read: code for code in cases.codes}.values())
    return max(cost.memory_share(case.layer_spec, machine) for case in different)


def _transport(world_size: int, machine: Machine) -> str:
    if machine.platform.device == "cpu":
        return "gloo"
    return "nccl" if world_size <= machine.devices else "staged"


# What the sort key of a job is made from: cases with equal kernels, weights and references.
COMPILE_AXES = ("experts", "quant", "dtype", "n", "k", "num_experts", "seed")
compile_key = attrgetter(*COMPILE_AXES)
