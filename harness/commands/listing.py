"""Run `list` and `plan`: show what would run here or on another machine. No torch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness.errors import ExitCode, UsageError
from harness.matrix.main_axes import LEAST_WITH_SHARES, MOST_WITH_SHARES, SMALLEST_SHARE
from harness.plan import machine, narrowing, requirements, selection
from harness.plan.manifest import recorded
from harness.plan.parts import part_of
from harness.plan.plan import Plan, make_plan

if TYPE_CHECKING:
    import argparse

    from harness.plan.machine import Machine


def show_list(args: argparse.Namespace) -> int:
    """Print the ids of the cases that would run, then all refusals by reason."""
    plan, note = _planned(args)
    sys.stdout.writelines(f"{case_id}\n" for case_id in plan.cases.ids())
    return _end(plan, note)


def show_plan(args: argparse.Namespace) -> int:
    """Print the jobs, one a line."""
    plan, note = _planned(args)
    print(f"{'world':>5} {'device':<6} {'transport':<9} {'cases':>6} {'limit':>8}")
    for job in plan.jobs:
        limit = f"{job.time_limit:g}s"
        print(
            f"{job.world_size:>5} {job.device:<6} {job.transport:<9} {len(job.cases):>6} {limit:>8}"
        )
    return _end(plan, note)


def _end(plan: Plan, note: str | None) -> ExitCode:
    """Print the note, the counts and the refusals by reason; return the exit code."""
    if note is not None:
        print(f"\n{note}", end="")
    print(
        f"\n{len(plan.cases)} case(s) on {plan.machine.platform.name}, {len(plan.refused)} refused"
    )
    print("\n".join([*refusals(plan), *_small_shares(plan)]))
    return ExitCode.PASSED if plan.cases else ExitCode.NOTHING_SELECTED


def _small_shares(plan: Plan) -> list[str]:
    """Return a line that counts the cases in which one expert may be hard to see, if any."""
    count = plan.cases.count_if(lambda case: case.has_small_shares, axes=("n", "k", "top_k"))
    if not count:
        return []
    condition = f"topk above {MOST_WITH_SHARES}, or n or k below {LEAST_WITH_SHARES}"
    return [f"{count} with {condition}: one expert may be less than {SMALLEST_SHARE:g} of a row"]


def refusals(plan: Plan) -> list[str]:
    """Return the lines that name every refusal of the plan, by reason."""
    from harness.report.tables import reason_lines

    return reason_lines(plan.refused.counts(), recorded(plan.refused.examples()))


def _planned(args: argparse.Namespace) -> tuple[Plan, str | None]:
    """Return the plan, and a line on what was selected if there is one."""
    planned_for = machine_of(args)
    requirements.check(args.require, planned_for)
    selected = selection.to_list(args, planned_for)
    plan = make_plan(selected.points, planned_for, time_limit=selected.time_limit)
    part = part_of(args, narrowing.narrowed(plan, args))
    notes = [*([selected.note] if selected.note else []), *part.lines()]
    return part.plan, "\n".join(notes) or None


def machine_of(args: argparse.Namespace) -> Machine:
    """Return the machine that --platform and --devices name, or this one. Raises UsageError."""
    if args.platform is not None:
        return machine.planned_for(args.platform, args.devices or 2)
    if args.devices is not None:
        raise UsageError("--devices goes with --platform NAME; this machine's are counted")
    return machine.detect()
