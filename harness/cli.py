"""Run `python -m harness …`: the module where all stages meet.

`run` loads, expands, plans, launches, stores and reports. Nothing here imports torch; pydantic,
rich and the engine are imported by the commands that need them, so that `list` starts quickly.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from importlib import import_module
from typing import TYPE_CHECKING

from harness.commands import hosts, last_lines, listing
from harness.commands.argument_errors import of_path, readable
from harness.commands.launch import code_of, launch, terminable
from harness.commands.options import parse
from harness.commands.streams import code_with_output, standard_streams
from harness.errors import ExitCode, HarnessError, NothingSelected
from harness.plan import machine, narrowing, requirements, selection
from harness.plan.manifest import describe, folder_for
from harness.plan.parts import part_of
from harness.plan.plan import Plan, make_plan
from harness.record import ledger
from harness.record.events import RunEnded
from harness.record.run_folder import ROOT, RunFolder, decided
from harness.record.summary import Summary, summarize
from harness.report import bound_slack, common_failures
from moe.errors import MoEError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from harness.plan.parts import Part
    from harness.plan.selection import Selection


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code (see `harness.errors.ExitCode`)."""
    with standard_streams() as out:
        code = _command(sys.argv[1:] if argv is None else argv)
    return code_with_output(code, out)


def program() -> int:
    """Run `main` as a program whose exit code a further Ctrl-C does not replace."""
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _command(argv: Sequence[str]) -> int:
    """Parse and run a command; print an exception as its message and return its exit code."""
    try:
        args = parse(argv)
        return int(COMMANDS[args.command](args))
    except SystemExit as stop:  # argparse's help
        return int(stop.code or 0)
    except (HarnessError, MoEError) as error:
        print(readable(str(error), argv), file=sys.stderr)
        return error.exit_code if isinstance(error, HarnessError) else ExitCode.USAGE
    except KeyboardInterrupt as stop:
        return code_of(stop)
    except Exception as error:
        text = of_path(error, argv) if isinstance(error, OSError) else None
        if text is not None:
            print(readable(text, argv), file=sys.stderr)
            return ExitCode.USAGE
        # Python's own exit code for this would be 1: "a case failed".
        traceback.print_exc()
        print("this is a bug in the harness, not in the code under test", file=sys.stderr)
        return ExitCode.INFRASTRUCTURE


def run(args: argparse.Namespace) -> int:
    """Load, expand, plan, launch, store, report."""
    began, start = time.time(), time.monotonic()
    detected = hosts.machine_on(args, machine.detect())
    requirements.check(args.require, detected)
    selected = selection.asked_for(args, detected)
    plan = make_plan(selected.points, detected, time_limit=selected.time_limit)
    part = _part(args, narrowing.narrowed(plan, args, selected.refused))
    plan = part.plan
    if not plan.jobs:
        raise NothingSelected(_nothing(plan))
    narrowing.check_repeat(plan, args)
    for line in (selected.note, *part.lines()):
        if line is not None:
            print(line, flush=True)
    until = start + part.chosen.budget if part.chosen else None
    with _folder(args, selected, part) as folder:
        remaining = plan.without(decided(folder.results))
        _announce(plan, remaining, folder)
        stopped = launch(args, selected, remaining, folder, part.ledger, until)
        summary = _finish(folder, plan, began)
    lines = _remarks(folder)
    is_late = until is not None and time.monotonic() >= until
    lines += last_lines.not_run(
        summary,
        fail_fast=args.fail_fast,
        out_of_time=is_late,
        recorded=args.durations_from is not None,
    )
    lines += last_lines.refused_by_id(summary)
    lines += last_lines.mostly_refused(plan)
    if summary.exit_code() is ExitCode.INCOMPLETE or stopped is not None:
        lines.append(f"to resume: python -m harness run --resume {folder.path}")
    print("".join(f"{line}\n" for line in lines), end="")
    code = last_lines.code_with_record(summary.exit_code() if stopped is None else stopped, folder)
    print(summary.line(), flush=True)
    return code


def _finish(folder: RunFolder, plan: Plan, began: float) -> Summary:
    """Count verdicts and close the record; a run with cases left gets no `RunEnded`."""
    ids = list(plan.cases.ids())
    seconds = time.time() - began
    left_out = len(folder.info.left_out)
    by_id = folder.info.suite is None
    summary = summarize(ids, len(plan.refused), folder.results, seconds, left_out, by_id=by_id)
    counts = summary.to_json()
    if not counts["not_run"]:
        verdict_counts = {name: count for name, count in counts.items() if name != "seconds"}
        folder.append(RunEnded(time=time.time(), seconds=seconds, counts=verdict_counts))
    folder.write_summary(counts)
    return summary


def _remarks(folder: RunFolder) -> list[str]:
    """Return lines on results that their counts do not tell."""
    results = folder.results.values()
    hints = [f"hint: {hint}" for hint in bound_slack.hints(results)]
    known = ledger.notes(results, folder.info.refused)
    in_common = common_failures.lines(results)
    assumed = (*last_lines.assumed_numerics(results), *last_lines.assumed_roundings(results))
    return [*in_common, *hints, *assumed, *known]


def _part(args: argparse.Namespace, plan: Plan) -> Part:
    """Return what a run launches of a plan."""
    resumed = RunFolder.open(args.resume).info if args.resume else None
    return part_of(args, plan, resumed)


def _folder(args: argparse.Namespace, selected: Selection, part: Part) -> RunFolder:
    """Open the folder to resume, or create a new one."""
    plan = part.plan
    if args.resume:
        folder = RunFolder.open(args.resume, write=True)
        selection.check_same_plan(folder, list(plan.cases.ids()))
        return folder
    path = args.out or folder_for(ROOT, selected.suite or "cases")
    chosen = part.chosen
    info = describe(
        args.argv,
        selected,
        plan,
        save_tensors=args.save_tensors,
        shard=part.shard,
        time_budget=chosen.budget if chosen else None,
        left_out=chosen.left_out if chosen else (),
    )
    return RunFolder.create(path, info)


def _nothing(plan: Plan) -> str:
    lines = ["nothing would run here; every point is refused:", *listing.refusals(plan)]
    return "\n".join(lines)


def _announce(plan: Plan, remaining: Plan, folder: RunFolder) -> None:
    devices, cores = plan.machine.devices, plan.machine.cores
    units = f"{devices} device(s)" if devices else f"{cores} core(s)"
    more = "" if remaining == plan else f", {len(remaining.cases)} of them left"
    codes = plan.refused.counts()
    reasons = ", ".join(f"{count} {code}" for code, count in codes.most_common())
    print(
        f"{len(plan.cases)} case(s) in {len(plan.jobs)} job(s){more}, {len(plan.refused)} refused"
        f"{f' ({reasons})' if reasons else ''}, "
        f"on {plan.machine.platform.name} with {units}; folder {folder.path}",
        flush=True,
    )


def _fuzz(args: argparse.Namespace) -> int:
    from harness.commands.fuzz import main as fuzz_main

    with terminable():
        return fuzz_main(args)


def _power(args: argparse.Namespace) -> int:
    from harness.commands.power import certify

    return certify(args, run)


def _on_use(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """Return a command that is imported when it is called: `list` need not wait for others."""

    def command(args: argparse.Namespace) -> int:
        return int(getattr(import_module(f"harness.commands.{module}"), function)(args))

    return command


COMMANDS = {
    "run": run,
    "fuzz": _fuzz,
    "power": _power,
    "numerics": _on_use("numerics", "infer"),
    "list": listing.show_list,
    "plan": listing.show_plan,
    "coverage": _on_use("coverage", "show_coverage"),
    "explain": _on_use("explain", "show_choice"),
    "compile": _on_use("compile_kernels", "compile_matrix"),
    "ci": _on_use("ci", "make_pipeline"),
    "collect": _on_use("collect", "collect"),
    "diff": _on_use("diff", "show_difference"),
    "flakes": _on_use("flakes", "show_flakes"),
    "host": _on_use("host", "serve"),
    "merge": _on_use("merge", "merge_runs"),
    "report": _on_use("report", "show_report"),
    "schema": _on_use("schema", "show_schema"),
    "subjects": _on_use("subjects", "show_subjects"),
    "doctor": _on_use("doctor", "examine"),
}
