"""Run thousands of small cases in one run, with a fault every 200: none lost, memory flat.

`make soak`, or `python benchmarks/soak.py [--cases N] [--every N] [--world N]`. A case is a small
product and a sum over the ranks, without a layer: what is measured is the engine. Faults come in
turn: an exit, SIGKILL, an exception on one rank, a hang. Exits with 1 if a case has no verdict or a
wrong one, or if the controller's memory grows.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist

from harness.engine.run_options import RunOptions
from harness.engine.scheduler import run
from harness.matrix.case import MoETestConfig
from harness.plan.machine import planned_for
from harness.plan.plan import Job, Plan
from harness.record.events import CaseEnded, GangStarted
from harness.record.result import RankResult, Verdict

if TYPE_CHECKING:
    from harness.fixtures.rank_context import RankContext

LIMIT = 2.0  # seconds of a case; what a hang costs
GROWTH = 8 << 20  # bytes that the controller may grow after the first quarter of the cases
EXPECTED = (Verdict.CRASHED, Verdict.CRASHED, Verdict.ERROR, Verdict.HUNG)  # of faults in turn
EVERY = 200


def fault_of(number: int, every: int) -> int | None:
    """Return which of EXPECTED a case has, or None. number: of the case, from 0 on."""
    turn, place = divmod(number, every)
    return turn % len(EXPECTED) if place == every - 1 else None


def soak_case(case: MoETestConfig, context: RankContext) -> RankResult:
    """Run one case of the soak on a rank; its `seed` is its number."""
    fault = fault_of(case.seed, context.options["every"])
    if fault is not None and context.rank == context.world_size - 1:
        _do(fault)
    x = torch.ones(16, 16) @ torch.ones(16, 16)
    dist.all_reduce(x)
    right = x[0, 0].item() == 16.0 * context.world_size
    return RankResult(rank=context.rank, verdict=Verdict.PASSED if right else Verdict.FAILED)


def _do(fault: int) -> None:
    if fault == 0:
        os._exit(7)
    if fault == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == 2:
        raise ValueError("the fault of one rank")
    time.sleep(600)


@dataclass(kw_only=True)
class Soak:
    """What a run of the soak showed. memory: bytes of the controller at each quarter."""

    verdicts: dict[int, Verdict] = field(default_factory=dict)  # by number of the case
    memory: list[int] = field(default_factory=list)
    gangs: int = 0
    healthy_seconds: float = 0.0  # of cases without a fault, from start to verdict
    seconds: float = 0.0

    def complaints(self, cases: int, every: int) -> list[str]:
        """Return what is wrong, one line each."""
        lines = []
        for number in range(cases):
            fault = fault_of(number, every)
            expected = Verdict.PASSED if fault is None else EXPECTED[fault]
            verdict = self.verdicts.get(number)
            if verdict is not expected:
                lines.append(f"case {number}: {verdict or 'lost'}, expected {expected}")
        growth = self.memory[-1] - self.memory[0]
        if growth > GROWTH:
            lines.append(f"the controller grew by {growth >> 20} MiB after the first quarter")
        return lines


def memory() -> int:
    """Return the bytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def plan_of(cases: int, world: int) -> Plan:
    """Return a plan with one job of small cases, which differ in their seeds."""
    sizes: dict[str, Any] = {"m": 1, "n": 1, "k": 1, "num_experts": 1, "top_k": 1}
    made = tuple(
        MoETestConfig(**sizes, experts="torch_loop", tp_size=world, seed=number)
        for number in range(cases)
    )
    job = Job(world_size=world, device="cpu", transport="gloo", cases=made, time_limit=LIMIT)
    return Plan(jobs=(job,), machine=planned_for("cpu"))


def soak(cases: int, world: int, every: int) -> Soak:
    """Run all cases; nothing is kept of them but their verdicts."""
    result, start = Soak(), time.perf_counter()
    plan, quarter = plan_of(cases, world), max(1, cases // 4)
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(
            log_dir=Path(folder),
            executor=f"{Path(__file__).stem}:soak_case",
            rank_options={"every": every},
        )
        for event in run(plan, options):
            result.gangs += isinstance(event, GangStarted)
            if isinstance(event, CaseEnded):
                number = MoETestConfig.from_id(event.result.case_id).seed
                result.verdicts[number] = event.result.verdict
                if fault_of(number, every) is None:
                    result.healthy_seconds += event.result.seconds
                if len(result.verdicts) % quarter == 0:
                    result.memory.append(memory())
    result.seconds = time.perf_counter() - start
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, default=20_000, help="default: 20000")
    parser.add_argument("--every", type=int, default=EVERY, help=f"default: a fault in {EVERY}")
    parser.add_argument("--world", type=int, default=2, help="ranks (default 2)")
    chosen = parser.parse_args()
    result = soak(chosen.cases, chosen.world, chosen.every)
    faults = sum(fault_of(number, chosen.every) is not None for number in range(chosen.cases))
    counts = Counter(str(verdict) for verdict in result.verdicts.values())
    print(f"{chosen.cases} cases at world {chosen.world}, {faults} faults, {result.gangs} gangs")
    print("  " + ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    ms = result.healthy_seconds / max(1, chosen.cases - faults) * 1e3
    print(f"  {ms:.2f} ms a case without a fault (goal 6); {result.seconds:.0f} s in all")
    print(f"  controller: {', '.join(f'{m / 2**20:.1f}' for m in result.memory)} MiB by quarter")
    complaints = result.complaints(chosen.cases, chosen.every)
    print("\n".join(complaints[:20]) if complaints else "  no case lost, memory flat")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
