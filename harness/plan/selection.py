"""Select the points of `run`, `list` and `plan`: of a suite, by ids, or of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.errors import NothingSelected, UsageError
from harness.matrix.case import MoETestConfig
from harness.matrix.suite_size import MOST_CASES, MOST_SECONDS
from harness.plan import model_selection, trace_selection
from harness.plan.plan import TIME_LIMIT
from harness.record.run_folder import ROOT, RunFolder, last_results, newest
from harness.record.summary import BAD
from moe.experts import EXPERTS
from moe.layers import COMPOSED, LAYERS, OWN
from moe.oracle import AUTO

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from harness.plan.machine import Machine
    from harness.record.run_info import RefusedCase

DEFAULT_SUITE = "smoke"  # of list and plan
_WAYS = "--suite, --case, --last-failed, --model, --trace"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The points to plan, and the limits that their suite sets for the run."""

    points: Sequence[MoETestConfig]
    suite: str | None = None  # None if cases were selected by id
    note: str | None = None  # a line on what they are, for people
    time_limit: float = TIME_LIMIT  # seconds a case
    retries: int = 0
    plain_call: bool = False  # whether each case has one, see harness.checks.plain_call
    undeclared: bool = False  # whether rows under test are taken to state no numerics
    refused: tuple[RefusedCase, ...] = ()  # by the run that is resumed
    trace: str | None = None  # the folder of recorded workloads

    def narrowed(self, experts: str | None, seeds: int, layer: str | None = None) -> Selection:
        """Return the points with one experts backend or one layer for all, and with more seeds."""
        from harness.matrix import expand

        points = self.points
        if experts is not None:
            MoETestConfig.from_id(f"m:1-n:1-k:1-e:1-topk:1-experts:{experts}")  # check its letters
            if experts not in (AUTO, OWN):
                EXPERTS.row(experts)
            points = expand.with_experts(points, experts)
        if layer is not None:
            points = self.with_layer(layer, experts).points
        if seeds > 1 and len(points) * seeds > MOST_CASES:
            raise UsageError(
                f"--seeds {seeds}: {len(points):,} point(s) with {seeds:,} seeds are more than "
                f"{MOST_CASES:,} cases; give fewer seeds"
            )
        return replace(self, points=expand.with_seeds(points, seeds))

    def with_layer(self, layer: str | None, experts: str | None = None) -> Selection:
        """Return the points with one outside layer. Raises UsageError if experts are also given."""
        from harness.matrix import expand

        if layer is None or layer == COMPOSED:
            return self
        if experts is not None:
            raise UsageError("--layer has its own experts; leave --experts out")
        MoETestConfig.from_id(
            f"m:1-n:1-k:1-e:1-topk:1-experts:{OWN}-layer:{layer}"
        )  # check its letters
        LAYERS.row(layer)
        return replace(self, points=expand.with_layer(self.points, layer))


def asked_for(args: argparse.Namespace, machine: Machine) -> Selection:
    """Return the selection of `run`. Raises UsageError for options that exclude each other.

    machine: what a suite that covers combinations is chosen for.
    """
    ways = _ways(args)
    model_selection.check_options(args)
    if args.resume:
        selected = _resumed(args, ways, machine)
    elif len(ways) != 1:
        options = " and ".join(ways) or "none"
        raise UsageError(f"choose one of {_WAYS}, --resume ({options} given)")
    else:
        selected = _selected(args, machine)
    selected = selected.narrowed(args.experts, args.seeds, args.layer)
    trace_selection.check_folder(selected.points, selected.trace)
    if args.plain_call:
        selected = replace(selected, plain_call=True)
    if args.undeclared:
        selected = replace(selected, undeclared=True)
    return with_limits(selected, time_limit=args.time_limit, retries=args.retries)


def to_list(args: argparse.Namespace, machine: Machine) -> Selection:
    """Return the selection of `list` and `plan`: as for `run`, by default suite smoke."""
    ways = _ways(args)
    if len(ways) > 1:
        raise UsageError(f"choose one of {_WAYS} ({' and '.join(ways)} given)")
    model_selection.check_options(args)
    selected = _selected(args, machine) if ways else of_suite(DEFAULT_SUITE, args.config, machine)
    return selected.narrowed(args.experts, 1, args.layer)


def _ways(args: argparse.Namespace) -> list[str]:
    """Return the options that select cases; with --case, --trace only says where inputs are."""
    ways = {
        "--suite": args.suite,
        "--case": args.case,
        "--last-failed": args.last_failed,
        "--model": args.model,
        "--trace": None if args.case else args.trace,
    }
    return [way for way, value in ways.items() if value]


def _selected(args: argparse.Namespace, machine: Machine) -> Selection:
    """Return the cases that one of the options selects."""
    model = model_selection.of_model(args)
    if model is not None:
        limit = model_selection.TIME_LIMIT
        return Selection(points=model.points, suite=model.name, time_limit=limit, note=model.note)
    if args.suite:
        return of_suite(args.suite, args.config, machine)
    if args.case:
        return replace(of_ids(args.case), trace=trace_selection.folder_of(args))
    return of_last_failed(newest(ROOT)) if args.trace is None else _of_trace(args)


def _of_trace(args: argparse.Namespace) -> Selection:
    """Return the cases of a data set of recorded workloads."""
    traced = trace_selection.of_trace(args)
    folder, limit = trace_selection.folder_of(args), model_selection.TIME_LIMIT
    return Selection(
        points=traced.points, suite=traced.name, time_limit=limit, note=traced.note, trace=folder
    )


def _resumed(args: argparse.Namespace, ways: list[str], machine: Machine) -> Selection:
    """Return the folder's points. A suite that is also named must still have exactly these."""
    narrowing = args.keep is not None or args.exclude or args.reason
    replaced = args.out or args.experts or args.layer or args.seeds != 1 or narrowing
    if replaced or set(ways) - {"--suite"}:
        raise UsageError(
            "--resume continues the folder's own cases: leave out --case, --last-failed, --model, "
            "--trace, --out, --experts, --layer, --seeds, -k and --exclude"
        )
    folder = RunFolder.open(args.resume)
    selected = of_folder(folder)
    if args.suite and folder.info.left_out:
        raise UsageError(f"{str(args.resume)!r} is a part of its suite: leave out --suite")
    if args.suite and folder.info.shard is not None:
        raise UsageError(f"{str(args.resume)!r} is one shard of a suite: leave out --suite")
    if args.suite:
        now = of_suite(args.suite, args.config, machine)
        check_same_suite(selected, now, args.resume)
    return selected


def of_suite(name: str, config: Path | None, machine: Machine) -> Selection:
    """Return a suite of the matrix file. Raises ConfigError or UsageError."""
    from harness.matrix import expand
    from harness.matrix.load import find, load
    from harness.plan import suites
    from harness.record import regressions

    path = find(config)
    loaded = load(path)
    suite = expand.suite_of(loaded, name)
    failed_once = regressions.beside(path)
    return Selection(
        points=suites.cases(loaded, name, machine, failed_once),
        suite=name,
        note=_failed_once(len(failed_once)),
        time_limit=suite.time_limit_s,
        retries=suite.retries,
        plain_call=suite.plain_call,
    )


def _failed_once(count: int) -> str | None:
    """Return a line on the cases that every suite runs, if there are some."""
    return f"with {count} case(s) of regressions.yaml, which failed once" if count else None


def of_ids(ids: Sequence[str]) -> Selection:
    """Return cases by their ids, each once. Raises CaseError."""
    return Selection(points=tuple(dict.fromkeys(MoETestConfig.from_id(i) for i in ids)))


def of_last_failed(path: Path) -> Selection:
    """Return the cases that did not pass in a run. Raises NothingSelected if all passed."""
    folder = RunFolder.open(path)
    last = last_results(folder.events())
    ids = [case for case, result in last.items() if result.verdict in BAD]
    if not ids:
        raise NothingSelected(f"no case failed in {str(path)!r}; nothing to run again")
    earlier = of_folder(folder)
    retries = "1 retry" if earlier.retries == 1 else f"{earlier.retries} retries"
    note = (
        f"what did not pass in {path}, with its limits unless options set others: "
        f"{earlier.time_limit:g} s a case, {retries}"
    )
    return replace(earlier, points=folder.cases_of(ids), suite=None, note=note)


def of_folder(folder: RunFolder) -> Selection:
    """Return an earlier run's points, including refused ones, with its limits."""
    info = folder.info
    ids = [*info.cases, *(point.case for point in info.refused)]
    return Selection(
        points=tuple(dict.fromkeys(folder.cases_of(ids))),
        suite=info.suite,
        time_limit=info.options.time_limit,
        retries=info.options.retries,
        plain_call=info.options.plain_call,
        undeclared=info.options.undeclared,
        refused=info.refused,
        trace=info.options.trace,
    )


def with_limits(selected: Selection, *, time_limit: float | None, retries: int | None) -> Selection:
    """Return the selection with the limits that options of a command or of pytest set, if any.

    Raises UsageError for a limit that none can be.
    """
    if time_limit is not None and not 0 < time_limit <= MOST_SECONDS:
        rule = f"more than 0 and at most {MOST_SECONDS:,} seconds"
        raise UsageError(f"--time-limit must be {rule}, not {time_limit:g}")
    if retries is not None and retries < 0:
        raise UsageError(f"--retries must be at least 0, not {retries}")
    return replace(
        selected,
        time_limit=selected.time_limit if time_limit is None else time_limit,
        retries=selected.retries if retries is None else retries,
    )


def _named(suite: str | None) -> str:
    return "cases without a suite" if suite is None else f"suite {suite!r}"


def check_same_suite(earlier: Selection, now: Selection, folder: Path) -> None:
    """Raise UsageError unless the suite still has the points of the folder."""
    before, after = set(earlier.points), set(now.points)
    if earlier.suite != now.suite:
        raise UsageError(
            f"the folder {str(folder)!r} is of {_named(earlier.suite)}, not {_named(now.suite)}; "
            f"start a new run of {_named(now.suite)}"
        )
    if before != after:
        odd = sorted(case.id for case in before ^ after)
        raise UsageError(
            f"suite {now.suite!r} has changed since {str(folder)!r} was made: "
            f"{len(odd)} case(s) differ, such as {odd[0]}; leave --suite out to finish the "
            "folder's own cases, or start a new run"
        )


def check_same_plan(folder: RunFolder, planned: Sequence[str]) -> None:
    """Raise UsageError if this machine would not run exactly the folder's cases."""
    odd = sorted(set(folder.info.cases) ^ set(planned))
    if odd:
        raise UsageError(
            f"this machine would not run the same cases as {str(folder.path)!r}: "
            f"{len(odd)} case(s) differ, such as {odd[0]}; resume it on a machine like the first "
            f"({folder.info.platform.name}), or start a new run"
        )
