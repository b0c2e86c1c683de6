"""What explaining a failed case costs: `python benchmarks/diagnosis.py [--device cuda] [ID ...]`.

Each case runs with a right backend, and with backends that are wrong: in a way that no known
mistake explains, so that all of them are tried, and in a way that one explains. The time of the
diagnosis and its torch operations stand beside those of the rest of the case. A device is mostly
waited for between operations, so there their number is what counts.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.execute import run_case
from harness.fixtures.phase_timer import Clock
from harness.fixtures.rank_context import RankContext
from harness.matrix.case import MoETestConfig
from harness.record.result import Verdict
from moe.experts.torch_loop import TorchLoopExperts
from moe.spec import MemberSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.record.result import RankResult
    from moe.types import Activations, ExpertWeights, Routing

REPEATS = 5
DIAGNOSIS = "diagnosis"  # the phase of a case
MODULE = "benchmarks.diagnosis"  # also if this file is the script
RIGHT = "torch_loop"
CASES = tuple(
    MoETestConfig(
        m=m, n=128, k=256, num_experts=e, top_k=min(8, e // 2), experts=RIGHT, quant=quant
    )
    for m in (64, 1)
    for e in (8, 64)
    for quant in ("none", "fp8_block")
)


class Scrambled(TorchLoopExperts):
    """Return the columns of each row in an order of its own, which nothing explains."""

    row = MemberSpec(name="scrambled", target=f"{MODULE}:Scrambled")

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        out = super().apply(x, routing)
        order = torch.rand(out.shape, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
        return out.copy_(out.gather(1, order.to(out.device)))


class Swapped(TorchLoopExperts):
    """Take gate for up and up for gate."""

    row = MemberSpec(name="swapped", target=f"{MODULE}:Swapped")

    def prepare_weights(self, weights: ExpertWeights) -> None:
        swapped = {
            name: torch.cat(t.chunk(2, dim=1)[::-1], dim=1)  # fp8 cannot be rolled on a GPU
            for name in ("w13", "w13_scale")
            if (t := getattr(weights, name)) is not None and t.dim() > 1 and t.shape[1] % 2 == 0
        }
        super().prepare_weights(weights.replace(**swapped))


BACKENDS = (RIGHT, f"{MODULE}:Scrambled", f"{MODULE}:Swapped")


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count torch operations by phase of a case. The layer itself must see no active mode."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_phase: Counter[str] = Counter()
        self.phase = ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.by_phase[self.phase] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count in the phases of every case that runs inside."""
        timed = Clock.phase

        @contextmanager
        def counted(clock: Clock, name: str) -> Iterator[None]:
            self.phase = name
            with timed(clock, name), self:
                yield

        Clock.phase = counted  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            Clock.phase = timed  # type: ignore[method-assign]


def operations(case: MoETestConfig, context: RankContext) -> tuple[int, int]:
    """Return the torch operations of a case but for its diagnosis, and those of the diagnosis."""
    counter = Operations()
    with counter.counting():
        run_case(case, context)
    explained = counter.by_phase.pop(DIAGNOSIS, 0)
    return counter.by_phase.total(), explained


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Hold median seconds and operations of a case but for its diagnosis, and of the diagnosis."""

    case: MoETestConfig
    result: RankResult
    seconds: tuple[float, float]
    operations: tuple[int, int]

    @property
    def cells(self) -> tuple[str, ...]:
        calls = self.result.diagnosis.calls if self.result.diagnosis else ()
        tried = "/".join(str(call.tried or 0) for call in calls)
        untried = sum(call.untried for call in calls)
        causes = {call.causes[0].name if call.causes else "none" for call in calls}
        return (
            self.case.id,
            *(f"{seconds * 1e3:.0f} ms" for seconds in self.seconds),
            f"{self.seconds[1] / self.seconds[0]:.2f}",
            *map(str, self.operations),
            f"{self.operations[1] / self.operations[0]:.2f}",
            f"{tried} tried" + (f", {untried} not" if untried else ""),
            ", ".join(sorted(causes)),
        )


def cost(case: MoETestConfig, context: RankContext) -> Cost:
    """Run a case again and again, first to warm it up."""
    result = run_case(case, context)
    runs = [run_case(case, context).seconds for _ in range(REPEATS)]
    explained = median(run[DIAGNOSIS] for run in runs)
    rest = median(sum(run.values()) - run[DIAGNOSIS] for run in runs)
    counts = operations(case, context)
    return Cost(case=case, result=result, seconds=(rest, explained), operations=counts)


def costs(cases: Sequence[MoETestConfig], device: torch.device) -> Iterator[Cost]:
    """Yield the costs of each case with each backend.

    Raises AssertionError if the right backend fails, or a wrong one does not.
    """
    context = RankContext(rank=0, world_size=1, device=device, transport="staged")
    for case in cases:
        for experts in BACKENDS:
            line = cost(case.replace(experts=experts), context)
            is_right = line.result.verdict is not Verdict.FAILED
            if is_right is not (experts == RIGHT):
                raise AssertionError(f"{line.case.id}: {line.result.verdict}")
            yield line


HEAD = (
    *("case", "case alone", "diagnosis", "ratio"),
    *("operations", "of the diagnosis", "ratio", "known mistakes", "cause"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help="cases of one rank, without experts")
    parser.add_argument("--device", default="cpu", help="where the cases run (cpu)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = [MoETestConfig.from_id(text) for text in args.ids] or CASES
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
    for line in costs(cases, torch.device(args.device)):
        print("| " + " | ".join(line.cells) + " |", flush=True)


if __name__ == "__main__":
    main()
