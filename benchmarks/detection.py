"""The smallest error that is still caught, for each quantization: `python benchmarks/detection.py`.

First the output by itself, as of a member that hands out none of its stages. An error is planted
in the reference: the weights of one expert, or one scale, times 1 + e. What comes out is rounded
where the member declares its roundings, so that the right answer is not the reference itself.
Bisection over e finds where the check of the output begins to see it. Then whole cases of our own
kernels (faulty.py), judged stage by stage as every case of theirs is. On the CPU.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import faulty
import torch
from scenes import Data, Right, right

from harness.checks.output import judge
from harness.matrix.case import MoETestConfig
from harness.record.result import Verdict
from moe.quant import QUANT
from moe.reference.formats import on_grid
from moe.reference.layer import BaselineSiluAndMul
from moe.spec import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from moe.formats.format import Format

    Plant = Callable[[Tensor, Tensor, float, Format], tuple[Tensor, Tensor]]

EXPERT = 0  # the one that is wrong
STEPS = 10  # of the bisection over the logarithm: to 2 % of the limit
LARGEST, SMALLEST = 4.0, 2.0**-17


def every_weight(w13: Tensor, w2: Tensor, error: float, _: Format) -> tuple[Tensor, Tensor]:
    return w13 * (1 + error), w2 * (1 + error)


def second_matrix(w13: Tensor, w2: Tensor, error: float, _: Format) -> tuple[Tensor, Tensor]:
    return w13, w2 * (1 + error)


def random_weights(w13: Tensor, w2: Tensor, error: float, _: Format) -> tuple[Tensor, Tensor]:
    """Each weight by its own share, of standard deviation `error`."""
    generator = torch.Generator().manual_seed(1)
    noisy = (w * (1 + error * torch.randn(w.shape, generator=generator)) for w in (w13, w2))
    first, second = noisy
    return first, second


def one_scale(w13: Tensor, w2: Tensor, error: float, fmt: Format) -> tuple[Tensor, Tensor]:
    """One scale of the second matrix: of the tensor, of a channel, or of a block."""
    wrong = w2.clone()
    rows, columns = fmt.block or (BLOCK, BLOCK)
    wrong[:rows, :columns] *= 1 + error
    return w13, wrong


PLANTS: dict[str, Plant] = {
    "all weights": every_weight,
    "w2": second_matrix,
    "each weight at random": random_weights,
    "one scale of w2": one_scale,
}


def with_error(given: Right, plant: Plant, error: float) -> BaselineSiluAndMul:
    """The reference with the error in one expert."""

    class Wrong(BaselineSiluAndMul):
        def weights(self, e: int) -> tuple[Tensor, Tensor]:
            w13, w2 = super().weights(e)
            return plant(w13, w2, error, self.weight_format) if e == EXPERT else (w13, w2)

    return given.reference.remade(Wrong)


def output(given: Right, plant: Plant | None = None, error: float = 0.0) -> Tensor:
    """[T, K] as a member with the declared roundings gives it: each expert's output rounded.

    With a plant, only the share of the wrong expert is worked out anew.
    """
    case, routing = given.scene.case, given.call.output.routing
    assert given.answer.parts is not None
    parts = given.answer.parts[0]
    if plant is not None:
        rows, slots = (routing.topk_ids == EXPERT).nonzero(as_tuple=True)
        ids = torch.full((len(rows), 1), EXPERT, dtype=torch.int32)
        wrong = with_error(given, plant, error)(
            *(given.call.tokens.x[rows], ids, torch.ones(ids.shape)),
            keep=torch.arange(len(rows)),
            like=given.answer,
        )
        assert wrong.parts is not None
        parts = parts.clone()
        parts[rows, slots] = wrong.parts[0, :, 0]
    total = torch.einsum("rkh,rk->rh", on_grid(parts, case.dtype), routing.topk_weights)
    return total.to(given.call.output.out.dtype)


def caught(given: Right, plant: Plant, error: float) -> bool:
    found = judge(output(given, plant, error), given.answer).verdict
    return found is Verdict.FAILED


def limit(given: Right, plant: Plant) -> float:
    """The smallest error that is caught, by bisection over its logarithm; inf: none is."""
    high, low = LARGEST, SMALLEST
    if not caught(given, plant, high):
        return float("inf")
    for _ in range(STEPS):
        middle = (high * low) ** 0.5
        if caught(given, plant, middle):
            high = middle
        else:
            low = middle
    return high


@dataclass(frozen=True, kw_only=True)
class Line:
    """quant: a method. limits: by plant."""

    quant: str
    limits: dict[str, float]


def measured(quant: str, seeds: int, experts: str) -> Line:
    """The median over the seeds; each has other weights and tokens."""
    found: dict[str, list[float]] = {name: [] for name in PLANTS}
    for seed in range(seeds):
        case = MoETestConfig(
            m=16, n=256, k=512, num_experts=8, top_k=2, experts=experts, quant=quant, seed=seed
        )
        given = right(case, Data())
        if judge(output(given), given.answer).verdict is not Verdict.PASSED:
            raise AssertionError(f"a right answer was rejected: {case.id}")
        for name, plant in PLANTS.items():
            if name != "one scale of w2" or QUANT.row(quant).scheme.weights != "model":
                found[name].append(limit(given, plant))
    limits = {name: median(values) for name, values in found.items() if values}
    return Line(quant=quant, limits=limits)


def whole_case(quant: str, seeds: int) -> Line:
    """The same of whole cases, see faulty.py."""
    has_scales = QUANT.row(quant).scheme.weights != "model"
    names = [name for name in faulty.FAULTS if has_scales or name != "one scale of w2"]
    cases = [faulty.CASE.replace(quant=quant, seed=seed) for seed in range(seeds)]
    limits = {name: median(faulty.limit(case, name) for case in cases) for name in names}
    return Line(quant=quant, limits=limits)


def table(lines: list[Line], names: Iterable[str]) -> str:
    """Markdown, in per cent."""
    names = list(names)
    rows = [f"| quant | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for line in lines:
        cells = [
            f"{line.limits[name] * 100:.2g}%" if name in line.limits else "no scales"
            for name in names
        ]
        rows.append(f"| {line.quant} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="the median of so many (3)")
    parser.add_argument("--experts", default="triton", help="whose declared numerics (triton)")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    print("the output by itself:")
    print(table([measured(row.name, args.seeds, args.experts) for row in QUANT], PLANTS))
    print("whole cases, stage by stage:", flush=True)
    print(table([whole_case(row.name, args.seeds) for row in QUANT], faulty.FAULTS))


if __name__ == "__main__":
    main()
