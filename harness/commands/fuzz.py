"""Run `fuzz`: run random cases, and shrink those that fail to the smallest.

The same seed draws the same cases in the same order. A vacuous case is counted and named, but does
not change the exit code: such points are rare among random ones and are no statement about the code
under test. No torch.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.commands import fuzz_coverage, fuzz_space, last_lines
from harness.commands.fuzz_loop import Fuzzer
from harness.commands.fuzz_regressions import Keeper
from harness.commands.fuzz_shrink import batch
from harness.commands.model_strategies import with_model
from harness.engine.forkserver_pool import Pool
from harness.errors import NothingSelected, UsageError
from harness.matrix.case import MoETestConfig
from harness.plan import machine, model_selection, requirements
from harness.plan.manifest import describe, folder_for
from harness.plan.plan import TIME_LIMIT, make_plan
from harness.plan.refusals import Judge
from harness.plan.selection import Selection
from harness.plan.time_budget import seconds
from harness.record.events import RunEnded
from harness.record.result import Verdict
from harness.record.run_folder import ROOT, RunFolder, check_new_folder
from harness.record.summary import repeat_command, summarize
from moe.layers import COMPOSED

FIRST = 8  # cases drawn to see whether any can run

if TYPE_CHECKING:
    import argparse

    from harness.commands.fuzz_space import Space
    from harness.plan.machine import Machine


def main(args: argparse.Namespace) -> int:
    """Draw, run and shrink cases. Return an exit code as `run` does."""
    budget = seconds(args.budget, "--budget")
    _check(args)
    keeper = Keeper.of(args.regressions)
    local = _machine(args)
    requirements.check(args.require, local)
    fixed = fuzz_space.fixed_values(args.fixed)
    space = fuzz_space.space_for(local, args.experts, args.layer, fixed)
    model = model_selection.of_model(args)
    if model is not None:
        space = with_model(space, model)
        print(model.note)
    first = batch(replace(space, batch=FIRST), args.seed, 0)[:1]
    if not first:
        raise NothingSelected(_nothing(space, local))
    with _folder(args, space) as folder, Pool() as pool:
        fuzzer = Fuzzer(
            space=space,
            seed=args.seed,
            folder=folder,
            pool=pool,
            slots=args.slots or local.slots,
            time_limit=_time_limit(args),
            verbose=args.verbose,
            undeclared=args.undeclared,
            keeper=keeper,
        )
        return _run(fuzzer, first, budget, args)


def _nothing(space: Space, local: Machine) -> str:
    """Return that no case runs on this machine, and why not, as far as a small case tells."""
    judge = Judge(local)
    known = (requirements.unavailable("experts", name, judge) for name in space.experts)
    reasons = [reason for reason in known if reason is not None] if space.layer == COMPOSED else []
    reasons += [text for text in [_small_refusal(space)] if space.fixed and text is not None]
    detail = f": {reasons[0]}" if reasons else "; `python -m harness doctor` names the reasons"
    named = f"{space.under_test}{' with --set' if space.fixed else ''}"
    return f"no case of {named} would run here{detail}"


def _small_refusal(space: Space) -> str | None:
    """Return why a small case with the fixed values is refused, or None."""
    sizes = {"m": 4, "n": 128, "k": 128, "num_experts": 8, "top_k": 2, **space.fixed}
    reason = space.judge(MoETestConfig(experts=space.experts[0], layer=space.layer, **sizes))[1]
    return f"{reason.code}: {reason.text}" if reason else None


def _time_limit(args: argparse.Namespace) -> float:
    """Return the seconds that one case may take; real sizes get more of them."""
    limit = TIME_LIMIT if args.model is None else model_selection.TIME_LIMIT
    return args.time_limit or limit


def _check(args: argparse.Namespace) -> None:
    """Raise UsageError for options that are invalid, alone or together."""
    if args.layer and args.experts:
        raise UsageError("--layer has its own experts; leave --experts out")
    if args.out:
        check_new_folder(args.out)  # before cases are drawn, which takes seconds


def _machine(args: argparse.Namespace) -> Machine:
    """Return this machine, or one with part of its devices."""
    local = machine.detect()
    if args.devices is None:
        return local
    if args.devices > local.devices:
        raise UsageError(f"--devices {args.devices}: this machine has {local.devices} GPU(s)")
    return replace(local, devices=args.devices)


def _folder(args: argparse.Namespace, space: Space) -> RunFolder:
    """Create the run's folder and print its path."""
    limits = {"time_limit": _time_limit(args), "undeclared": args.undeclared}
    selected = Selection(points=(), suite="fuzz", **limits)
    info = describe(args.argv, selected, make_plan([], space.machine), seed=args.seed)
    path = args.out or folder_for(ROOT, "fuzz")
    folder = RunFolder.create(path, info)
    print(f"fuzzing {space.under_test} with seed {args.seed}; folder {path}", flush=True)
    return folder


def _run(
    fuzzer: Fuzzer, first: list[MoETestConfig], budget: float, args: argparse.Namespace
) -> int:
    """Fuzz for the budget's seconds; an interrupted run also reports its results."""
    began = time.time()
    try:
        fuzzer.warm(first)
        fuzzer.go(time.monotonic() + budget, args.cases, stop_at_first=args.fail_fast)
    finally:
        fuzzer.folder.name_cases(list(fuzzer.results))
        code = _finish(fuzzer, began)
    return code


def _finish(fuzzer: Fuzzer, began: float) -> int:
    """Record and print the counts; return the exit code that follows from them."""
    elapsed = time.time() - began
    summary = summarize(list(fuzzer.results), 0, fuzzer.results, elapsed)
    counts = summary.to_json()
    verdicts = {name: count for name, count in counts.items() if name != "seconds"}
    fuzzer.folder.append(RunEnded(time=time.time(), seconds=elapsed, counts=verdicts))
    fuzzer.folder.write_summary(counts)
    for result in fuzzer.smallest:
        print(f"smallest {result.verdict}: {repeat_command(result.case_id)}")
        print(fuzzer.keeper.line(result))
    if fuzzer.results:
        ran = map(MoETestConfig.from_id, fuzzer.results)
        print(fuzz_coverage.pairs_line(fuzzer.space, ran))
    results = fuzzer.results.values()
    for line in (*last_lines.assumed_numerics(results), *last_lines.assumed_roundings(results)):
        print(line)
    counted = replace(summary, counts={**summary.counts, Verdict.VACUOUS: 0})
    code = last_lines.code_with_record(counted.exit_code(), fuzzer.folder)
    print(summary.line(), flush=True)
    return code
