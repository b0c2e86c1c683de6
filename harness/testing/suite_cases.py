"""From the options of a pytest run to the cases of a suite: each with its line in the matrix file.

The points are found once, in the main process, and sent to xdist's workers as ids with lines: to
cover combinations can take seconds. Each worker then plans the same points for its share of the
machine. No torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.matrix import expand, file_errors, yaml_positions
from harness.matrix.case import MoETestConfig
from harness.matrix.load import find, load
from harness.plan import machine as machines
from harness.plan import suites
from harness.plan.parts import held_back, ledger_of, without
from harness.plan.plan import make_plan
from harness.plan.refusals import Judge
from harness.plan.selection import Selection, with_limits
from harness.record import regressions
from moe.oracle import AUTO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from harness.matrix.schema import Suite
    from harness.plan.machine import Machine
    from harness.plan.plan import Job, Plan
    from harness.record.ledger import Ledger
    from moe.reason import Reason


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """What a pytest run asks for.

    platform: plan for another chip; nothing can run then. devices: how many GPUs to use, None for
    all. workers: processes that run cases at once. share_devices: whether they may share GPUs.
    out: the run folder to write, if any.
    """

    suite: str
    matrix: Path | None = None
    platform: str | None = None
    devices: int | None = None
    share_devices: bool = False
    experts: str | None = None
    layer: str | None = None
    known_failures: Path | None = None
    retries: int | None = None
    time_limit: float | None = None
    workers: int = 1
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SuiteCase:
    """One case of a suite. line: of its block, or of its id, in the matrix file, from 1.

    job: what its gang must be; None for a case that does not run. refusal: why it does not.
    """

    case: MoETestConfig
    line: int
    job: Job | None = None
    refusal: Reason | None = None


@dataclass(frozen=True, kw_only=True)
class SuiteCases:
    """All cases of a suite in the order in which gangs run them best, refused ones last."""

    cases: tuple[SuiteCase, ...]
    plan: Plan
    machine: Machine
    ledger: Ledger
    selection: Selection


def machine_of(options: SuiteOptions) -> Machine:
    """Return the part of the machine that each worker has.

    Workers share main memory, and have GPUs of their own, the same number each. Raises UsageError
    for more workers than GPUs, unless they may share them, and for devices that are not there.
    """
    if options.devices is not None and options.devices < 1:
        raise UsageError(f"--moe-devices must be at least 1, not {options.devices}")
    if options.platform is not None:
        return machines.planned_for(options.platform, options.devices or 2)
    local = machines.detect()
    if options.devices is not None and options.devices > local.devices:
        text = f"--moe-devices {options.devices}: this machine has {local.devices} GPU(s)"
        raise UsageError(f"{text}; leave the option out to use what there is")
    total = local.devices if options.devices is None else options.devices
    if total == 0:
        return replace(local, memory_bytes=local.memory_bytes // options.workers)
    if options.workers > total and not options.share_devices:
        raise UsageError(
            f"{options.workers} workers would share {total} GPU(s): pass -n {total}, or "
            "--moe-share-devices"
        )
    sharers = -(-options.workers // total)
    share = max(1, total // options.workers)
    return replace(local, devices=share, device_bytes=local.device_bytes // sharers)


def as_own_options(text: str) -> str:
    """Return an error's text with the names that options of `run` have here, as `--moe-layer`."""
    names = "|".join(field.name.replace("_", "-") for field in fields(SuiteOptions))
    return re.sub(rf"(?<![\w-])--(?=({names})\b)", "--moe-", text)


def matrix_file(options: SuiteOptions) -> Path:
    """Return the absolute path of the matrix file."""
    return find(options.matrix).resolve()


def points_of(options: SuiteOptions) -> dict[str, int]:
    """Return the ids of a suite's points, with their lines in the matrix file.

    Raises ConfigError and UsageError.
    """
    path = matrix_file(options)
    located = yaml_positions.load(file_errors.read(path, "matrix file"))
    origins = suites.origins(load(path), options.suite, machine_of(options))
    lines: dict[str, int] = {}
    suite = ("suites", options.suite)
    origins = dict.fromkeys(regressions.beside(path), suite) | origins
    for point, place in origins.items():
        for changed in _replaced(point, options):
            lines.setdefault(changed.id, located.where(place)[0])
    return lines


def _replaced(point: MoETestConfig, options: SuiteOptions) -> Sequence[MoETestConfig]:
    """Return the point with the backend or layer that the options name, if any."""
    if options.experts is None and options.layer is None:
        return (point,)
    return Selection(points=(point,)).narrowed(options.experts, 1, options.layer).points


def planned(options: SuiteOptions, lines: Mapping[str, int]) -> SuiteCases:
    """Return the cases for a worker's share of the machine. lines: as of `points_of`.

    Raises ConfigError and UsageError.
    """
    machine = machine_of(options)
    selection = _selection(options, lines)
    plan = make_plan(selection.points, machine, time_limit=selection.time_limit)
    ledger = ledger_of(options.known_failures, plan)
    plan = without(plan, held_back(plan, ledger))
    return SuiteCases(
        cases=tuple(_cases(plan, _resolved(selection.points, lines, machine))),
        plan=plan,
        machine=machine,
        ledger=ledger,
        selection=selection,
    )


def _selection(options: SuiteOptions, lines: Mapping[str, int]) -> Selection:
    suite: Suite = expand.suite_of(load(matrix_file(options)), options.suite)
    selection = Selection(
        points=tuple(map(MoETestConfig.from_id, lines)),
        suite=options.suite,
        time_limit=suite.time_limit_s,
        retries=suite.retries,
        plain_call=suite.plain_call,
    )
    return with_limits(selection, time_limit=options.time_limit, retries=options.retries)


def _resolved(
    points: Iterable[MoETestConfig], lines: Mapping[str, int], machine: Machine
) -> dict[str, int]:
    """Return the lines by the ids that a plan has: a backend stands in the place of `auto`."""
    judge, resolved = Judge(machine), dict(lines)
    for point in points:
        if point.experts == AUTO:
            resolved.setdefault(judge(point)[0].id, lines[point.id])
    return resolved


def _cases(plan: Plan, lines: Mapping[str, int]) -> Iterable[SuiteCase]:
    for job in plan.jobs:
        for case in job.cases:
            yield SuiteCase(case=case, line=lines[case.id], job=job)
    for refused in plan.refused:
        case = refused.case
        yield SuiteCase(case=case, line=lines[case.id], refusal=refused.reason)
