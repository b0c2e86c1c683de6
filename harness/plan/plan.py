"""From points and a machine to a plan: jobs to run and points refused, each with its reason.

No torch: a plan for another chip, or for a CI pipeline, is made on any machine.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.matrix.case import MoETestConfig
from harness.matrix.exactness import exact_refusal
from harness.plan import cost
from moe.activations import ACTIVATIONS
from moe.all2all import ALL2ALL
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.layers import COMPOSED, LAYERS, OWN, LayerRow
from moe.oracle import AUTO, select
from moe.quant import QUANT
from moe.routers import ROUTERS
from moe.spec import Needs, Reason, experts_refusal, problem_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from harness.plan.machine import Machine
    from moe.quant import QuantRow
    from moe.spec import Platform, Problem, Row

    Refuse = Callable[[Needs, Problem, Platform], Reason | None]

TIME_LIMIT = 120.0  # seconds a case may take where no suite says otherwise


@dataclass(frozen=True, kw_only=True)
class Job:
    """Cases that one gang can run one after another, in this order."""

    world_size: int
    device: str  # "cpu" | "cuda" (ROCm's too)
    transport: str  # "gloo" (cpu) | "nccl" (each rank owns a device) | "staged" (ranks share)
    cases: tuple[MoETestConfig, ...]
    time_limit: float = TIME_LIMIT  # seconds that each of them may take


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A point that will not run, and why."""

    case: MoETestConfig
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every point is in exactly one of `jobs` and `refused`."""

    jobs: tuple[Job, ...]
    refused: tuple[Refusal, ...]
    machine: Machine

    @property
    def cases(self) -> tuple[MoETestConfig, ...]:
        return tuple(case for job in self.jobs for case in job.cases)

    def without(self, done: Collection[str]) -> Plan:
        """The plan less the cases with these ids."""
        jobs = []
        for job in self.jobs:
            cases = tuple(case for case in job.cases if case.id not in done)
            if cases:
                jobs.append(replace(job, cases=cases))
        return replace(self, jobs=tuple(jobs))


def make_plan(
    points: Iterable[MoETestConfig], machine: Machine, *, time_limit: float = TIME_LIMIT
) -> Plan:
    """Sort points into jobs and refusals. `experts: auto` becomes the member that is chosen.

    Raises UsageError for a member that no table knows and no import path loads.
    """
    runnable: dict[MoETestConfig, None] = {}
    refused: dict[MoETestConfig, Refusal] = {}
    for point in points:
        try:
            case, reason = _judge(point, machine)
        except MoEError as error:
            raise UsageError(f"case {point.id}: {error}") from error
        if reason is None:
            runnable[case] = None
        else:
            refused[case] = Refusal(case=case, reason=reason)
    jobs = _jobs(runnable, machine, time_limit)
    return Plan(jobs=jobs, refused=tuple(refused.values()), machine=machine)


def _judge(case: MoETestConfig, machine: Machine) -> tuple[MoETestConfig, Reason | None]:
    """The case, its experts backend chosen where it says `auto`, and why it cannot run."""
    problem, quant = case.problem, QUANT.row(case.quant)
    reason = (
        problem_refusal(problem)
        or _straddling(problem, quant)
        or (exact_refusal(problem.scheme) if case.exact else None)
    )
    if reason is not None:
        return case, reason
    if case.layer != COMPOSED:
        return case, _layer_refusal(case, machine) or _memory_refusal(problem, machine)
    if case.experts == AUTO:
        selection = select(
            problem, machine.platform, veto=lambda row: _experts_refusal(row, problem, machine)
        )
        case = case.replace(experts=selection.winner.name)
    reason = (
        _experts_refusal(_backend(case.experts), problem, machine)
        or _needs_refusal(ROUTERS.row(case.router), problem, machine)
        or _needs_refusal(ACTIVATIONS.row(case.activation), problem, machine)
        or _needs_refusal(quant, problem, machine)
        or _needs_refusal(ALL2ALL.row(case.all2all), problem, machine)
        or _memory_refusal(problem, machine)
    )
    return case, reason


def _backend(name: str) -> Row:
    """The row of an experts backend. Raises MoEError for a whole layer."""
    row = EXPERTS.row(name)
    if isinstance(row, LayerRow):
        raise MoEError(f"{name} is a whole layer, no experts backend; name it with `--layer`")
    return row


def _layer_refusal(case: MoETestConfig, machine: Machine) -> Reason | None:
    """Why a whole layer of somebody else's, or its quantization, does not serve this case.

    Raises MoEError where the case also names members, which only the composed layer has.
    """
    if case.experts != OWN or case.all2all != MoETestConfig.all2all:
        raise MoEError(f"layer {case.layer} has its own members; write experts:{OWN}, and no a2a")
    row, problem = LAYERS.row(case.layer), case.problem
    if case.exact:
        text = f"{row.name}: exact inputs do not carry router logits; leave `exact` out"
        return Reason(code="exact_unsupported", text=text)
    if machine.planned:
        row = replace(row, needs=_elsewhere(row.needs))
    reason = row.refusal(problem, machine.platform)
    if reason is not None:
        return Reason(code=reason.code, text=f"{row.name}: {reason.text}")
    return _needs_refusal(QUANT.row(case.quant), problem, machine)


def _needs_refusal(
    row: Row, problem: Problem, machine: Machine, refusal: Refuse = Needs.refusal
) -> Reason | None:
    needs = _elsewhere(row.needs) if machine.planned else row.needs
    reason = refusal(needs, problem, machine.platform)
    return reason and Reason(code=reason.code, text=f"{row.name}: {reason.text}")


def _elsewhere(needs: Needs) -> Needs:
    """What can be judged of another machine: not which packages it has."""
    return replace(needs, packages=(), probe=None)


def _experts_refusal(row: Row, problem: Problem, machine: Machine) -> Reason | None:
    reason = _needs_refusal(row, problem, machine, experts_refusal)
    if reason is not None or not machine.platform.interpreted or "triton" not in row.needs.features:
        return reason
    seconds = cost.interpreted_seconds(problem, machine.cores)
    if seconds <= cost.INTERPRETER_SECONDS:
        return None
    text = (
        f"{row.name}: interpreted kernels would take about {seconds:.0f} s, more than "
        f"{cost.INTERPRETER_SECONDS:.0f} s; use a smaller shape or a GPU"
    )
    return Reason(code="interpreter_too_slow", text=text)


def _straddling(problem: Problem, quant: QuantRow) -> Reason | None:
    """Weight blocks must end where a rank's shard and the gate/up seam do.

    Gate and up are stored one above the other, so the seam is at the intermediate size itself;
    the hidden size may end in part of a block.
    """
    block, layout = quant.block, problem.layout
    if block is None:
        return None
    if problem.intermediate % block:
        text = f"{quant.name}: the gate/up seam at {problem.intermediate} cuts a block of {block}"
        return Reason(code="block_straddles_shard", text=text)
    shards = (layout.intermediate_of(r, problem.intermediate) for r in range(layout.world_size))
    edge = next((shard.stop for shard in shards if shard.stop % block), None)
    if edge is None:
        return None
    text = f"{quant.name}: a rank's shard ends at column {edge}, inside a block of {block}"
    return Reason(code="block_straddles_shard", text=text)


def _memory_refusal(problem: Problem, machine: Machine) -> Reason | None:
    text = cost.shortage(problem, machine)
    return Reason(code="needs_memory", text=text) if text else None


def _jobs(cases: Iterable[MoETestConfig], machine: Machine, time_limit: float) -> tuple[Job, ...]:
    """One job a world size, small worlds first; inside, cases that share kernels stand together."""
    worlds: dict[int, list[MoETestConfig]] = defaultdict(list)
    for case in cases:
        worlds[case.world_size].append(case)
    return tuple(
        Job(
            world_size=world,
            device=machine.platform.device,
            transport=_transport(world, machine),
            cases=tuple(sorted(worlds[world], key=_compile_key)),
            time_limit=time_limit,
        )
        for world in sorted(worlds)
    )


def _transport(world_size: int, machine: Machine) -> str:
    if machine.platform.device == "cpu":
        return "gloo"
    return "nccl" if world_size <= machine.devices else "staged"


def _compile_key(case: MoETestConfig) -> tuple[object, ...]:
    """Neighbours in this order reuse compiled kernels, weights and references."""
    return (case.experts, case.quant, case.dtype, case.n, case.k, case.num_experts, case.seed)
