"""Run `compile`: every Triton kernel that suites can launch, for chips that are not here. No torch.

The plan is made here; `harness.fixtures.compile_worker` records what the cases launch, and
compiles it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.errors import ExitCode, InfrastructureError, NothingSelected, UsageError
from harness.plan import machine, selection
from harness.plan.plan import make_plan
from moe.all2all import ALL2ALL
from moe.experts import EXPERTS
from moe.kernels.aot_warnings import unlisted
from moe.layers import COMPOSED
from moe.platforms import PLATFORMS, platform
from moe.routers import ROUTERS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from harness.matrix.case import MoETestConfig
    from moe.spec import Needs

DEFAULT_CHIPS = ("cuda_sm90", "cuda_sm100", "rocm_gfx942", "rocm_gfx950")
LARGEST = 20_000  # points of a suite that is compiled without being named: 10 ms each to record
_PROGRESS_SECONDS = 15.0
_FORK = multiprocessing.get_context("fork")  # no thread runs and no torch is loaded here
_OWN = ("triton",)  # packages of kernels that are ours
_NO_LAUNCH_AXES = (
    *("seed", "exact", "call", "logits", "padding", "skew"),
    *("chunk", "capacity", "eplb", "redundant", "eplb_window", "eplb_move"),
)
_ROUTER_AXES = (
    *("router", "renormalize", "router_bias", "router_groups", "chosen_groups", "router_scale"),
    *("logits_dtype", "gate"),
)


@dataclass(kw_only=True)
class ChipTotals:
    """Count what was compiled for one chip."""

    limit: int  # bytes of shared memory that a program may use
    configurations: int = 0  # different binaries that the cases launch
    kernels: set[str] = field(default_factory=set)
    done: int = 0
    cached: int = 0
    shared_bytes: int = 0  # of the kernel that uses most
    seconds: float = 0.0  # of processors, for the kernels that were not cached
    warnings: Counter[str] = field(default_factory=Counter)  # accepted ones
    failures: list[str] = field(default_factory=list)

    def add(self, result: dict[str, Any]) -> None:
        """Count one compiled kernel."""
        self.done += 1
        self.cached += result["cached"]
        self.kernels.add(result["kernel"])
        self.shared_bytes = max(self.shared_bytes, result["shared_bytes"])
        self.seconds += 0.0 if result["cached"] else result["seconds"]
        failures = list(failures_of(result, self.limit))
        self.failures += [f"{result['label']}: {text}" for text in failures]
        if not failures:
            self.warnings.update(result["warnings"])


def failures_of(result: dict[str, Any], limit: int) -> Iterator[str]:
    """Yield why a compiled kernel fails: a refusal, too much shared memory, unlisted warnings."""
    if result["refusal"] is not None:
        yield f"refused: {result['refusal']}"
    if result["shared_bytes"] > limit:
        yield (
            f"uses {result['shared_bytes']} bytes of shared memory, more than the {limit} of "
            f"{result['chip']}; choose smaller tiles or fewer stages for it (moe/kernels/tiles.py)"
        )
    for text in unlisted(result["warnings"], result["chip"]):
        yield f"warning without a reason in moe/kernels/aot_warnings.py: {text}"


def compile_matrix(args: argparse.Namespace) -> int:
    """Compile, print a table, and return the exit code: 1 if a kernel fails."""
    began = time.monotonic()
    names = args.platform or DEFAULT_CHIPS
    _check(names, args.cache)
    jobs = args.jobs or machine.usable_cores()
    with ProcessPoolExecutor(min(jobs, len(names)), mp_context=_FORK) as pool:
        planned = pool.map(partial(_planned, args), names)
        ids = {PLATFORMS.row(name).arch: ids for name, ids in zip(names, planned, strict=True)}
    if not any(ids.values()):
        raise NothingSelected("no case of these suites launches a Triton kernel of this project")
    limits = {PLATFORMS.row(name).arch: platform(name).shared_bytes or 0 for name in names}
    totals = {chip: ChipTotals(limit=limit) for chip, limit in limits.items()}
    cases = ", ".join(f"{chip} {len(of_chip)}" for chip, of_chip in ids.items())
    if args.suite:
        print(left_out(args.suite, args.config), end="")
    print(f"cases that differ in what they launch: {cases}", flush=True)
    failed_cases = _follow(worker(ids, args.cache, jobs), totals)
    print("\n".join(table(totals)))
    failures = [*failed_cases, *(f"{c}: {t}" for c, of in totals.items() for t in of.failures)]
    failures += _idle(ids, totals)
    print("".join(f"FAILED {text}\n" for text in failures), end="")
    total = sum(of.done for of in totals.values())
    print(f"{total} binaries, {len(failures)} failure(s), {time.monotonic() - began:.1f} s")
    return ExitCode.FAILED if failures else ExitCode.PASSED


def _idle(ids: dict[str, list[str]], totals: dict[str, ChipTotals]) -> Iterator[str]:
    """Yield each chip whose cases launched no kernel at all: then nothing was shown."""
    for chip, of_chip in ids.items():
        if of_chip and not totals[chip].done and not totals[chip].failures:
            yield f"{chip}: {len(of_chip)} case(s) launched no kernel, so nothing was compiled"


def _check(names: Iterable[str], cache: Path) -> None:
    """Raise UsageError for a platform without compiled kernels, or a cache that cannot be a folder.

    Nothing is made: another error may still end the command.
    """
    for name in names:
        if platform(name).triton_target is None:
            chips = ", ".join(row.name for row in PLATFORMS if platform(row.name).triton_target)
            raise UsageError(f"--platform {name}: Triton compiles nothing for it (chips: {chips})")
    folder = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        reason = "cannot be written" if folder.is_dir() else "is not a folder"
        raise UsageError(f"--cache {cache}: cannot make this folder: {folder} {reason}")


def _planned(args: argparse.Namespace, platform_name: str) -> list[str]:
    """Return the ids of a platform's cases."""
    return ids_for(points_of(args.suite, args.config, platform_name), platform_name)


def points_of(
    suites: Sequence[str], config: Path | None, platform_name: str
) -> tuple[MoETestConfig, ...]:
    """Return a platform's points of these suites, or if there are none of all but huge ones.

    config: the matrix file, None for the project's. Huge: more than LARGEST points.
    """
    from harness.matrix.load import find, load

    planned, points = machine.planned_for(platform_name), dict[Any, None]()
    for name in suites or load(find(config)).suites:
        of_suite = selection.of_suite(name, config, planned).points
        if not suites and len(of_suite) > LARGEST:
            text = f"suite {name} has {len(of_suite)} points, more than {LARGEST}, and is left out"
            print(f"{text}; `--suite {name}` compiles it", flush=True)
            continue
        points |= dict.fromkeys(of_suite)
    return tuple(points)


def left_out(suites: Iterable[str], config: Path | None) -> str:
    """Return a line on the suites of the file that are neither named nor part of a named one."""
    from harness.matrix.load import find, load

    known = load(find(config)).suites
    included = list(suites)
    for name in included:  # grows by what each includes
        included += known[name].include if name in known else []
    other_suites = [name for name in known if name not in included]
    return (
        f"not compiled: {', '.join(other_suites)}; `--suite NAME` compiles it\n"
        if other_suites
        else ""
    )


def ids_for(points: Iterable[MoETestConfig], platform_name: str) -> list[str]:
    """Return the ids of cases that run on a platform and launch our kernels, in order.

    Cases that differ only in what no kernel sees, such as the seed, are one.
    """
    plan = make_plan(points, machine.planned_for(platform_name))
    cases = (_shape_of(case) for case in plan.cases if _launches_ours(case))
    return [case.id for case in dict.fromkeys(cases)]


def _launches_ours(case: MoETestConfig) -> bool:
    if case.layer != COMPOSED:
        return False
    return _is_ours(EXPERTS.row(case.experts).needs)


def _shape_of(case: MoETestConfig) -> MoETestConfig:
    """Return the case with the values that change no launch of ours at their defaults.

    How a router chooses is one of them, unless it is a kernel of ours, and so is the all2all. The
    number of rows that it sends and where replicas lie follow from the values of a call.
    """
    router = () if _is_ours(ROUTERS.row(case.router).needs) else _ROUTER_AXES
    all2all = () if _is_ours(ALL2ALL.row(case.all2all).needs) else ("all2all",)
    names = (*_NO_LAUNCH_AXES, *router, *all2all)
    return case.replace(**{name: getattr(type(case), name) for name in names})


def _is_ours(needs: Needs) -> bool:
    return "triton" in needs.features and set(needs.packages) <= set(_OWN)


def worker(
    ids: dict[str, list[str]], cache: Path, jobs: int, *options: str
) -> Iterator[dict[str, Any]]:
    """Yield the events of the compile worker. Raises InfrastructureError if it dies."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "harness.fixtures.compile_worker", str(cache), str(jobs)]
    command += options
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin:
            json.dump(ids, process.stdin)
        yield from map(json.loads, process.stdout)
    if process.returncode != 0:
        raise InfrastructureError(f"the compiling process ended with code {process.returncode}")


def _follow(events: Iterable[dict[str, Any]], totals: dict[str, ChipTotals]) -> list[str]:
    """Count the events and print progress; return the cases whose launches cannot be recorded."""
    failed: dict[str, list[str]] = defaultdict(list)
    last = time.monotonic()
    for event in events:
        if "failed" in event:
            case, _, text = event["failed"].partition(": ")
            failed[text].append(case)
        elif "recorded" in event:
            for chip, count in event["recorded"].items():
                totals[chip].configurations = count
            print(f"recorded in {event['seconds']:g} s", flush=True)
        else:
            totals[event["chip"]].add(event)
        if time.monotonic() - last > _PROGRESS_SECONDS:
            last = time.monotonic()
            print(f"... {_progress(totals)}", flush=True)
    return [
        f"{len(cases)} case(s), such as {cases[0]}, cannot be recorded: {text}"
        for text, cases in failed.items()
    ]


def _progress(totals: dict[str, ChipTotals]) -> str:
    return ", ".join(f"{chip} {of.done}/{of.configurations}" for chip, of in totals.items())


def table(totals: dict[str, ChipTotals]) -> Sequence[str]:
    """Return the lines of the table, one a chip, and accepted warnings with their counts."""
    head = f"{'chip':<8}{'kernels':>8}{'configurations':>15}{'largest shared':>23}"
    lines = [f"{head}{'CPU time':>10}{'cached':>8}{'failed':>8}"]
    for chip, of in totals.items():
        shared = f"{of.shared_bytes} of {of.limit} B"
        lines.append(
            f"{chip:<8}{len(of.kernels):>8}{of.configurations:>15}{shared:>23}"
            f"{of.seconds:>8.0f} s{of.cached:>8}{len(of.failures):>8}"
        )
    for chip, of in totals.items():
        lines += [f"{chip}: accepted {n}x: {text}" for text, n in of.warnings.items()]
    return lines
