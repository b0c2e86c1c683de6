"""What rules of other projects' tests let through, beside ours: `python benchmarks/rules.py`.

Each rule is written anew from its description, with the tolerances that the project's tests use.
Wrong answers are those of the self-proof (`harness.mutants.self_check`). Every rule meets them
twice: on data as its own tests make it, and on this project's inputs. A right answer goes first:
a rule that rejected it would prove nothing. On the CPU, in some seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from scenes import Data, Right, right

from harness.matrix.case import MoETestConfig
from harness.mutants import NotApplicable
from harness.mutants.self_check import MEMBERS, rejected

if TYPE_CHECKING:
    from torch import Tensor

Accepts = Callable[["Tensor", "Tensor"], bool]  # (actual, expected), both [r, K] float32


def close(atol: float, rtol: float, share: float = 1.0) -> Accepts:
    """At least this share of elements within atol + rtol * |expected|."""

    def accepts(actual: Tensor, expected: Tensor) -> bool:
        inside = (actual - expected).abs() <= atol + rtol * expected.abs()
        return bool(inside.float().mean() >= share)

    return accepts


def close_either(atol: float, rtol: float, share: float = 1.0) -> Accepts:
    """Finite, and at least this share of elements within atol, or within rtol of |expected|."""

    def accepts(actual: Tensor, expected: Tensor) -> bool:
        off = (actual - expected).abs()
        inside = (off <= atol) | (off / (expected.abs() + 1e-8) <= rtol)
        return bool(actual.isfinite().all()) and bool(inside.float().mean() >= share)

    return accepts


def close_and_alive(atol: float, rtol: float) -> Accepts:
    """As `close`, finite, and of at least half the mean size."""
    near = close(atol, rtol)

    def accepts(actual: Tensor, expected: Tensor) -> bool:
        alive = bool(actual.abs().mean() > 0.5 * expected.abs().mean())
        return near(actual, expected) and alive and bool(actual.isfinite().all())

    return accepts


def close_to_spread(actual: Tensor, expected: Tensor) -> bool:
    """97 % of elements off by less than 1.5 standard deviations (at least .05), or by half."""
    off = (actual - expected).abs()
    absolute = off < max(0.05, 1.5 * float(expected.std()))
    relative = off < 0.5 * expected.abs()
    return bool((absolute | relative).float().mean() >= 0.97)


def close_to_largest(fraction: float, rtol: float) -> Accepts:
    """atol is a fraction of the largest element, plus .001."""

    def accepts(actual: Tensor, expected: Tensor) -> bool:
        return close(fraction * float(expected.abs().max()) + 1e-3, rtol)(actual, expected)

    return accepts


def similar(limit: float, shift: float) -> Accepts:
    """1 - 2 <x, y> / (|x|^2 + |y|^2) below a limit, after `shift` was added to both."""

    def accepts(actual: Tensor, expected: Tensor) -> bool:
        x, y = actual.double() + shift, expected.double() + shift
        return bool(1 - 2 * (x * y).sum() / (x.square() + y.square()).sum() < limit)

    return accepts


def relative_to_rms(largest: float, rms: float) -> Accepts:
    """Errors over max(rms, |expected|): their largest and their rms."""

    def accepts(actual: Tensor, expected: Tensor) -> bool:
        unit = expected.square().mean().sqrt()
        off = (actual - expected).abs() / torch.maximum(unit, expected.abs())
        return bool(off.max() <= largest) and bool(off.square().mean().sqrt() <= rms)

    return accepts


def _case(m: int, n: int, k: int, top_k: int, num_experts: int = 8) -> MoETestConfig:
    return MoETestConfig(
        m=m,
        n=n,
        k=k,
        num_experts=num_experts,
        top_k=top_k,
        experts="triton",
        dp_size=2,
        use_ep=True,
        renormalize=False,
    )


SMALL = _case(32, 256, 512, 2)
OUR_DATA = Data()
OURS = SMALL.replace(shared_experts=1, renormalize=True)
OURS_FP8 = OURS.replace(quant="fp8_block")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a project's tests feed. rms: where only the output's size is known, our inputs with
    the second matrix scaled so that it is met.
    """

    text: str
    case: MoETestConfig = SMALL
    data: Data = OUR_DATA
    rms: float | None = None

    def answer(self) -> Right:
        if self.rms is None:
            return right(self.case, self.data)
        size = right(self.case, OUR_DATA).answer.out.square().mean().sqrt()
        return right(self.case, Data(output=self.rms / float(size)))


RECIPES = {
    "mk": Recipe(
        text="randn / 15, K = 2048, N = 1024",
        case=_case(32, 1024, 2048, 4, num_experts=32),
        data=Data(tokens=1 / 15, weights=1 / 15),
    ),
    "layer": Recipe(
        text="randn / 10 and / 15, K = N = 512",
        case=_case(32, 512, 512, 2),
        data=Data(tokens=0.1, weights=1 / 15),
    ),
    "std01": Recipe(
        text="randn / 100, K = 1024, N = 512",
        case=_case(33, 512, 1024, 2),
        data=Data(tokens=0.01, weights=0.01),
    ),
    "rms05": Recipe(text="ours, scaled", rms=0.05),
    "rms04": Recipe(text="ours, scaled", rms=0.04),
    "rms50": Recipe(text="ours, scaled", rms=0.5),
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One project's rule: what it says of it, and the data that it is used on."""

    project: str
    text: str
    accepts: Accepts
    data: str  # key of RECIPES


RULES = (
    Rule(project="vLLM", text="atol = rtol = .03", accepts=close(3e-2, 3e-2), data="mk"),
    Rule(
        project="vLLM",
        text=".03, finite, half the mean size",
        accepts=close_and_alive(3e-2, 3e-2),
        data="mk",
    ),
    Rule(project="vLLM", text="nvfp4: .1", accepts=close(1e-1, 1e-1), data="mk"),
    Rule(project="vLLM", text="layer: .035", accepts=close(3.5e-2, 3.5e-2), data="layer"),
    Rule(
        project="FlashInfer",
        text="97 % within 1.5 std or half",
        accepts=close_to_spread,
        data="rms05",
    ),
    Rule(
        project="FlashInfer",
        text="fp8 block: 79 % within .1, .85",
        accepts=close(0.1, 0.85, 0.79),
        data="rms05",
    ),
    Rule(
        project="FlashInfer",
        text="fuzz, bf16: .05 of the largest, .05",
        accepts=close_to_largest(0.05, 0.05),
        data="rms05",
    ),
    Rule(project="TRT-LLM", text="96 % within .2, .2", accepts=close(0.2, 0.2, 0.96), data="rms50"),
    Rule(
        project="TRT-LLM",
        text="fp8 block: 92.5 % within .1, .85",
        accepts=close(0.1, 0.85, 0.925),
        data="rms50",
    ),
    Rule(project="SGLang", text="atol .01, rtol .1", accepts=close(1e-2, 0.1), data="std01"),
    Rule(
        project="DeepEP",
        text="fp8: 1 - similarity(+1) < .0009",
        accepts=similar(9e-4, 1.0),
        data="rms04",
    ),
    Rule(
        project="aiter", text="95 % within .01, .01", accepts=close(1e-2, 1e-2, 0.95), data="rms05"
    ),
    Rule(
        project="aiter",
        text="strict: 1 - similarity < .01",
        accepts=similar(1e-2, 0.0),
        data="rms05",
    ),
    Rule(
        project="Triton kernels",
        text="over the rms: largest .02, rms .004",
        accepts=relative_to_rms(2e-2, 4e-3),
        data="rms50",
    ),
    *(
        Rule(project="flashinfer-bench", text=text, accepts=close_either(1e-2, 1e-2, share), data=d)
        for text, share in (
            ("each within .01 or 1 %", 1.0),
            ("fp8 block: 95 % within .01 or 1 %", 0.95),
        )
        for d in ("layer", "rms05")
    ),
)


def wrong_answers(given: Right) -> dict[str, Tensor | None]:
    """Each member of the battery: [r', K] float32 as it would come out, None: none here."""
    found: dict[str, Tensor | None] = {}
    dtype = given.scene.actual.dtype
    for member in MEMBERS:
        try:
            found[member.name] = member.compute(given.scene).to(dtype).float()
        except NotApplicable:
            found[member.name] = None
    return found


def let_through(rule: Rule, given: Right, wrong: dict[str, Tensor | None]) -> list[str]:
    """Names of the wrong answers that the rule accepts.

    Raises ValueError where it rejects the right one.
    """
    expected = given.scene.answer.out.float()
    if not rule.accepts(given.scene.actual.float(), expected):
        raise ValueError(f"{rule.project}, {rule.text}: rejects a right answer")
    return [
        name
        for name, actual in wrong.items()
        if actual is not None and rule.accepts(actual, expected[: len(actual)])
    ]


def ours_let_through(given: Right, wrong: dict[str, Tensor | None]) -> list[str]:
    """The same for this project's check."""
    assert not bool(rejected(given.scene.actual.float()[None], given.scene)), "a false alarm"
    passed = []
    for name, actual in wrong.items():
        if actual is None:
            continue
        scene = given.scene.first(len(actual))
        if not bool(rejected(actual[None], scene)):
            passed.append(name)
    return passed


def _cell(passed: list[str], wrong: dict[str, Tensor | None]) -> str:
    possible = sum(actual is not None for actual in wrong.values())
    names = ", ".join(passed) if len(passed) < possible else "all of them"
    return f"{len(passed)} of {possible}" + (f": {names}" if passed else "")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def tables() -> str:
    """Markdown: per rule what passes on its own data and what on ours."""
    own = {key: recipe.answer() for key, recipe in RECIPES.items()}
    theirs = {key: wrong_answers(given) for key, given in own.items()}
    here, fp8 = right(OURS, OUR_DATA), right(OURS_FP8, OUR_DATA)
    wrong, quantized = wrong_answers(here), wrong_answers(fp8)
    head = ("project", "rule", "its data (rms of the output)", "lets through there")
    lines = [_line(*head, "lets through on our inputs"), "|---" * 5 + "|"]
    for rule in RULES:
        key = rule.data
        rms = float(own[key].answer.out.square().mean().sqrt())
        data = f"{RECIPES[key].text} ({rms:.2g})"
        there = _cell(let_through(rule, own[key], theirs[key]), theirs[key])
        on_ours = _cell(let_through(rule, here, wrong), wrong)
        lines.append(_line(rule.project, rule.text, data, there, on_ours))
    for key, recipe in RECIPES.items():
        rms = float(own[key].answer.out.square().mean().sqrt())
        there = _cell(ours_let_through(own[key], theirs[key]), theirs[key])
        lines.append(
            _line("ours", "the case's own bound", f"{recipe.text} ({rms:.2g})", there, "-")
        )
    for text, given, answers in (("ours", here, wrong), ("ours, fp8 in blocks", fp8, quantized)):
        passed = _cell(ours_let_through(given, answers), answers)
        lines.append(_line(text, "the case's own bound", "-", "-", passed))
    return "\n".join(lines)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_grad_enabled(False)
    print(tables())


if __name__ == "__main__":
    main()
