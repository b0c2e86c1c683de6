"""Certify that wrong answers were caught beside each three values of axes that a case has.

That a mistake was caught on some case of a layout says little of another backend, format or number
of tokens there. So here each three values of any three axes that a case of the run has must have a
case with them in which the wrong answer was caught, if it can exist in one. Values that no case has
together are what `harness coverage` looks for. Does not import torch.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from harness.matrix.case import MoETestConfig
from harness.matrix.layout_words import layout_word
from harness.mutants.coverage import MEMBERS
from harness.record.proof import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from harness.record.result import CaseResult

Value = tuple[str, str]  # axis, and the word of a case for it
TOGETHER = 3  # axes
SHOWN = 8  # gaps of one mistake that are written out

FEW_OR_MANY = (1, 4, 16, 64)  # the upper ends of the ranges into which numbers are put
_TILE = re.compile(r"BLOCK(?:_SIZE)?_M=(\d+)")


def range_word(number: int, ends: tuple[int, ...]) -> str:
    """Return the range that holds a number, such as `5-16`, or `65+`. ends: ascending."""
    start = 0
    for end in ends:
        if number <= end:
            return f"{start}-{end}" if end > start else str(end)
        start = end + 1
    return f"{start}+"


# Axis -> the word of a case. Numbers are put into ranges, since each is a path of its own at most.
AXES: dict[str, Callable[[MoETestConfig], str]] = {
    "experts": lambda case: case.experts if case.layer == "composed" else case.layer,
    "quant": lambda case: case.quant,
    "layout": lambda case: layout_word(case.layout),
    "all2all": lambda case: case.all2all,
    "router": lambda case: case.router,
    "act": lambda case: case.activation,
    "dtype": lambda case: case.dtype,
    "call": lambda case: case.call,
    "tokens": lambda case: case.tokens,
    "m": lambda case: range_word(case.m, FEW_OR_MANY),
    "topk": lambda case: range_word(case.top_k, (1, 2, 4, 8)),
    "e": lambda case: range_word(case.num_experts, (4, 16, 64, 256)),
}


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Hold values in whose cases a wrong answer can exist and was never caught.

    reason: what to do; the first case's.
    """

    mistake: str
    values: tuple[Value, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class TripleCertificate:
    """Hold the gaps among a number of values of three axes, counted for each wrong answer."""

    count: int
    gaps: tuple[Gap, ...]

    def lines(self) -> list[str]:
        """Return lines for a terminal: each mistake's first gaps, and the verdict."""
        by_mistake: dict[tuple[str, str], list[str]] = defaultdict(list)
        for gap in self.gaps:
            words = " ".join(f"{axis}:{word}" for axis, word in gap.values)
            by_mistake[gap.mistake, gap.reason].append(words)
        lines = [f"{name} {reason}: {_some(gaps)}" for (name, reason), gaps in by_mistake.items()]
        return [*lines, self._verdict()]

    def _verdict(self) -> str:
        subject = f"{self.count} combination(s) of a wrong answer and three values that a case has"
        if self.gaps:
            return f"incomplete: of {subject}, {len(self.gaps)} were never caught"
        return f"complete: of {subject}, each was caught"


def _some(gaps: list[str]) -> str:
    """Return the first gaps of a list, and how many more there are."""
    more = len(gaps) - SHOWN
    return ", ".join(gaps[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def values_of(case: MoETestConfig, kernels: Iterable[str]) -> Mapping[str, str]:
    """Return axis -> word of a case. kernels: those that it launched, for the rows of a tile."""
    rows = [int(size) for size in _TILE.findall(" ".join(kernels))]
    words = {axis: word(case) for axis, word in AXES.items()}
    return {**words, "tile rows": str(max(rows)) if rows else "none"}


def triple_certificate(results: Iterable[CaseResult]) -> TripleCertificate:
    """Return what these results prove of each three values.

    Cases without a self-check do not count: they failed, or did not run, as the table by
    quantization method and layout shows.
    """
    reasons: dict[tuple[str, tuple[Value, ...]], str] = {}  # "": caught
    for result in results:
        if not result.battery:
            continue
        case = MoETestConfig.from_id(result.case_id)
        triples = tuple(combinations(values_of(case, result.kernels).items(), TOGETHER))
        for name, reason in _reasons(case, result).items():
            for values in triples:
                key = name, values
                reasons[key] = reasons.get(key, reason) and reason
    gaps = [Gap(mistake=n, values=v, reason=reason) for (n, v), reason in reasons.items() if reason]
    return TripleCertificate(count=len(reasons), gaps=tuple(gaps))


def _reasons(case: MoETestConfig, result: CaseResult) -> dict[str, str]:
    """Return mistake -> why it was not caught, of those that can exist in a case; "": it was."""
    proofs = {proof.name: proof for proof in result.battery}
    reasons = {}
    for member in MEMBERS:
        proof = proofs.get(member.name)
        if not member.exists_in(case) or proof is None:
            continue
        if proof.outcome is Outcome.CAUGHT:
            reasons[member.name] = ""
        elif proof.outcome is Outcome.MISSED:
            reasons[member.name] = f"would pass; use {proof.explanation}"
        else:
            reasons[member.name] = f"is not applicable ({proof.explanation}); add a case"
    return reasons
