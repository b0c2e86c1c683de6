"""What judging costs: `python benchmarks/judge.py [--device cuda] [--probe ID] [--run FOLDER]`.

First the check of one large output, [8192, 7168], beyond the reference that it needs: metrics,
rows, the whole. Then the parts of the process-state probe in a case that is run again and again;
last, of a run's folder, the share of each phase in the time of its cases.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from harness.checks.output import judge
from harness.execute import run_case
from harness.fixtures.cache_sums import CacheSums
from harness.fixtures.kernel_canary import KernelCanary
from harness.fixtures.process_growth import Growth
from harness.fixtures.rank_context import RankContext
from harness.fixtures.state_changes import StateWatch
from harness.matrix.case import MoETestConfig
from harness.record.result import Verdict
from harness.record.run_folder import RunFolder, last_results
from moe.reference.result import Answer

TOKENS, HIDDEN = 8192, 7168
WARM, REPEATS = 2, 20
ON_CPU = 3  # repeats there, where each takes seconds
CASES = 60  # how often the case of --probe runs
PARTS = ((StateWatch, "changes"), (KernelCanary, "changes"), (Growth, "counts"))
SUMS = ((CacheSums, "add_new"), (CacheSums, "change"))


def answer_of(tokens: int, hidden: int, device: torch.device) -> tuple[torch.Tensor, Answer]:
    """An output in bf16 and the answer that it was rounded from."""
    generator = torch.Generator(device=device).manual_seed(0)
    out = torch.randn(tokens, hidden, generator=generator, device=device)
    step = torch.full((tokens,), hidden * 2.0**-16 / 12, device=device)
    largest = out.abs().amax()
    none = torch.zeros_like(step)
    answer = Answer(out=out, variance=2 * step, flips=none, amax1=largest, amax2=largest)
    return out.bfloat16(), answer


def seconds(tokens: int, hidden: int, device: torch.device) -> float:
    """Median time of one judgement, the device waited for."""
    actual, answer = answer_of(tokens, hidden, device)
    times, repeats = [], REPEATS if device.type == "cuda" else ON_CPU
    for _ in range(WARM + repeats):
        start = time.perf_counter()
        found = judge(actual, answer)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
        if found.verdict is not Verdict.PASSED:
            raise AssertionError(found.messages)
    return median(times[WARM:])


def probe(case: MoETestConfig, device: torch.device) -> dict[str, float]:
    """Median seconds a case by part; `case` is all of it."""
    context = RankContext(rank=0, world_size=1, device=device, transport="staged")
    spent: dict[str, float] = defaultdict(float)
    for owner, method in (*PARTS, *SUMS):
        setattr(owner, method, _timed(getattr(owner, method), f"{owner.__name__}.{method}", spent))
    run = _timed(run_case, "case", spent)
    totals: dict[str, list[float]] = defaultdict(list)
    for _ in range(CASES):
        spent.clear()
        if (result := run(case, context)).verdict is not Verdict.PASSED:
            raise AssertionError(result.messages)
        for part, took in spent.items():
            totals[part].append(took)
    return {part: median(all_of_it[WARM:]) for part, all_of_it in totals.items()}


def _timed(function: Any, name: str, spent: dict[str, float]) -> Any:
    def timed(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            spent[name] += time.perf_counter() - start

    return timed


def shares(folder: Path) -> dict[str, float]:
    """Seconds by phase over all cases of a run; `case` is their wall time."""
    total: dict[str, float] = defaultdict(float)
    for result in last_results(RunFolder.open(folder).events()).values():
        for phase, spent in (*result.phases.items(), ("case", result.seconds)):
            total[phase] += spent
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="where the output lies (cpu)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"rows ({TOKENS})")
    parser.add_argument("--hidden", type=int, default=HIDDEN, help=f"columns ({HIDDEN})")
    parser.add_argument("--probe", metavar="ID", help="a case of one rank, for the probe's parts")
    parser.add_argument("--run", type=Path, help="a run's folder, for the shares of its phases")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    took = seconds(args.tokens, args.hidden, torch.device(args.device))
    print(f"judging [{args.tokens}, {args.hidden}] on {args.device}: {took * 1e3:.2f} ms")
    if args.probe is not None:
        torch.set_num_threads(1)
        for part, spent in probe(
            MoETestConfig.from_id(args.probe), torch.device(args.device)
        ).items():
            print(f"{part:<20} {spent * 1e3:8.3f} ms a case")
    if args.run is not None:
        total = shares(args.run)
        for phase, spent in sorted(total.items(), key=lambda item: -item[1]):
            print(f"{phase:<10} {spent:8.2f} s  {spent / total['case']:6.1%} of the cases' time")


if __name__ == "__main__":
    main()
