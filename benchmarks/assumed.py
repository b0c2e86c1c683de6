"""How near the nearest wrong answer is, with stated and with assumed numerics, for each format.

For each quantization, top-k and number of tokens: the wrong answer of the self-check whose worst
row is the fewest times beyond its tolerance, under the numerics that the row states and, if it
stated none, under the most lenient of all customary alternatives. Below 1 it would pass.
`python benchmarks/assumed.py`, on the CPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from scenes import Data, right

from harness.checks.output import row_tolerance
from harness.matrix.case import MoETestConfig
from harness.mutants import HYPOTHESES, NotApplicable
from harness.mutants.self_check import answer_under
from moe.assumed_numerics import alternatives
from moe.numerics import Numerics
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene
    from moe.reference.result import Answer

TOP_K, TOKENS = (2, 8, 10), (1, 4, 32)
QUANT = ("none", "fp8_block", "fp8_tensor", "int8_channel")


def margin(output: Tensor, answer: Answer, dtype: str) -> float:
    """How many times its tolerance the worst row of a wrong output [r, K] is away."""
    rounded = output.to(TORCH_DTYPE[dtype]).to(answer.out.dtype)
    rows = slice(0, len(output))
    distance = (rounded - answer.out[rows]).norm(dim=1)
    return float((distance / row_tolerance(answer)[rows]).amax())


def wrong_outputs(scene: Scene) -> dict[str, Tensor]:
    """What each mistake of the self-check returns, where the case can have it."""
    outputs = {}
    for hypothesis in (h for h in HYPOTHESES if h.battery):
        try:
            outputs[hypothesis.name] = hypothesis.compute(scene)
        except NotApplicable:
            continue
    return outputs


def nearest(case: MoETestConfig) -> tuple[tuple[float, str], tuple[float, str]]:
    """The nearest wrong answer, (times its tolerance, name), as stated and as assumed."""
    scene = right(case, Data()).scene
    tried = alternatives(Numerics(), case.layer_spec.scheme, case.dtype, "cuda")
    answers = [answer_under(scene, numerics) for numerics in tried]
    stated, assumed = [], []
    for name, output in wrong_outputs(scene).items():
        stated.append((margin(output, scene.answer, case.dtype), name))
        assumed.append((min(margin(output, a, case.dtype) for a in answers), name))
    return min(stated), min(assumed)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=16, help="number of experts (16)")
    args = parser.parse_args()
    print("| quant | k | m | stated: nearest wrong answer | assumed: nearest wrong answer |")
    print("|---|---|---|---|---|")
    for quant in QUANT:
        for top_k in TOP_K:
            for m in TOKENS:
                sizes = {"n": 256, "k": 256, "num_experts": args.experts}
                case = MoETestConfig(m=m, **sizes, top_k=top_k, quant=quant, experts="triton")
                cells = (f"{value:.1f}x, {name}" for value, name in nearest(case))
                print(f"| {quant} | {top_k} | {m} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        main()
