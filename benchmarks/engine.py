"""What a case costs without its content, in fresh processes and in a warm gang; what faults cost.

`make bench-engine`, or `python benchmarks/engine.py [--world N] [--cases N] [--spawns N]`. Both
sides run in this one call, on the CPU with gloo, so that their ratio holds on any machine.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn as start_processes

from harness.engine.forkserver_pool import Pool
from harness.engine.gang import Gang
from harness.engine.gang_notices import GangDead, GangReady, State, watch
from harness.engine.gang_spec import PRELOAD, GangSpec
from harness.engine.run_options import RunOptions
from harness.engine.scheduler import run
from harness.engine.task_outcome import Ended, Outcome
from harness.matrix.case import MoETestConfig
from harness.plan.machine import planned_for
from harness.plan.plan import Job, Plan
from harness.record.events import CaseStarted
from harness.record.result import RankResult, Verdict

if TYPE_CHECKING:
    from harness.fixtures.rank_context import RankContext

EXECUTOR = f"{Path(__file__).stem}:empty_case"
CRASH, HANG = 1, 2  # seeds of cases
HANG_LIMIT = 1.0  # seconds
PRELOADED = (*PRELOAD, "moe.*", "harness.execute")  # as a real run has it


@dataclass(frozen=True, kw_only=True)
class Line:
    what: str
    seconds: float
    goal: float | None = None  # seconds


def empty_case(case: MoETestConfig, context: RankContext) -> RankResult:
    """The executor of the benchmark: a fault of rank 0 if the seed names one, and a barrier."""
    if case.seed == CRASH and context.rank == 0:
        os._exit(7)
    if case.seed == HANG and context.rank == 0:
        time.sleep(600)
    dist.barrier()
    return RankResult(rank=context.rank, verdict=Verdict.PASSED)


def _spawned(rank: int, world: int, file: str) -> None:
    """What a test that starts its own processes does at the very least."""
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    dist.all_reduce(torch.ones(1))
    dist.destroy_process_group()


def spawn_per_case(world: int, cases: int) -> float:
    """Seconds a case."""
    start = time.perf_counter()
    for _ in range(cases):
        with tempfile.TemporaryDirectory() as folder:
            start_processes(  # type: ignore[no-untyped-call]
                _spawned, (world, f"{folder}/store"), nprocs=world
            )
    return (time.perf_counter() - start) / cases


def _until_idle(gang: Gang) -> None:
    while gang.state is not State.IDLE:
        watch([gang])
        for notice in gang.poll():
            bad = isinstance(notice, GangDead)
            bad = bad or (isinstance(notice, Outcome) and notice.ended is not Ended.ANSWERED)
            if bad:
                raise RuntimeError(f"the benchmark's gang failed: {notice}")
            assert isinstance(notice, GangReady | Outcome)


def _gone(gang: Gang) -> None:
    gang.end("done")
    while gang.state is not State.DEAD:
        watch([gang])
        gang.poll()


def a_case(world: int, **fields: int) -> MoETestConfig:
    sizes: dict[str, Any] = {"m": 1, "n": 1, "k": 1, "num_experts": 1, "top_k": 1, **fields}
    return MoETestConfig(**sizes, experts="torch_loop", tp_size=world)


def after_faults(world: int, faults: int = 5) -> list[Line]:
    """Seconds from the start of a case with a fault to the start of the next case."""
    lines = []
    for what, seed, limit in (("crash", CRASH, 60.0), ("hang", HANG, HANG_LIMIT)):
        cases = [a_case(world, m=m, seed=s) for m in range(1, faults + 1) for s in (seed, 0)]
        job = Job(
            world_size=world, device="cpu", transport="gloo", cases=tuple(cases), time_limit=limit
        )
        started = _starts(Plan(jobs=(job,), machine=planned_for("cpu")))
        gaps = [started[b.id] - started[a.id] for a, b in itertools.pairwise(cases) if a.seed]
        of_limit = limit if seed == HANG else 0.0
        words = f"from a {what} to the next case" + f", less {limit:g} s" * (seed == HANG)
        lines.append(Line(what=words, seconds=statistics.mean(gaps) - of_limit, goal=1.0))
    return lines


def _starts(plan: Plan) -> dict[str, float]:
    """Run a plan; return when each case started, in seconds."""
    started = {}
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(log_dir=Path(folder), executor=EXECUTOR)
        for event in run(plan, options):
            if isinstance(event, CaseStarted):
                started[event.case_id] = time.perf_counter()
    return started


def warm_gangs(world: int, cases: int, gangs: int = 5) -> list[Line]:
    """The first gang of a run, further ones, and a case in a warm one."""
    case = a_case(world)
    spec = GangSpec(
        world_size=world,
        device="cpu",
        transport="gloo",
        executor=EXECUTOR,
        options={},
        preload=PRELOADED,
    )
    start = time.perf_counter()
    with Pool() as pool:
        gang = Gang(pool, spec)
        _until_idle(gang)
        first = time.perf_counter() - start
        next_gang = 0.0
        for _ in range(gangs):
            _gone(gang)
            start = time.perf_counter()
            gang = Gang(pool, spec)
            _until_idle(gang)
            next_gang += (time.perf_counter() - start) / gangs
        gang.run(case.id, 60)  # connections are made in the first collective
        _until_idle(gang)
        start = time.perf_counter()
        for _ in range(cases):
            gang.run(case.id, 60)
            _until_idle(gang)
        warm = (time.perf_counter() - start) / cases
    return [
        Line(what="first gang, from nothing to ready", seconds=first, goal=4.0),
        Line(what="next gang, from order to ready", seconds=next_gang, goal=0.5),
        Line(what="case in a warm gang", seconds=warm, goal=0.005),
    ]


def table(spawn: float, lines: list[Line], world: int) -> str:
    head = f"{f'world {world}, gloo, CPU':38} {'ms':>9} {'goal':>7} {'spawn is':>10}"
    rows = [head, f"{'case in freshly spawned processes':38} {spawn * 1e3:9.1f} {'':7} {'1x':>10}"]
    for line in lines:
        goal = "" if line.goal is None else f"{line.goal * 1e3:g}"
        ratio = f"{spawn / line.seconds:,.1f}x"
        rows.append(f"{line.what:38} {line.seconds * 1e3:9.2f} {goal:>7} {ratio:>10}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--world", type=int, default=2, help="ranks (default 2)")
    parser.add_argument("--cases", type=int, default=500, help="cases in the warm gang")
    parser.add_argument("--spawns", type=int, default=3, help="cases in spawned processes")
    chosen = parser.parse_args()
    lines = [*warm_gangs(chosen.world, chosen.cases), *after_faults(chosen.world)]
    print(table(spawn_per_case(chosen.world, chosen.spawns), lines, chosen.world))


if __name__ == "__main__":
    main()
