"""Certify a suite's power: which wrong answers it has proved that it would reject.

Each case proves that its checks could have failed, but a case in which a mistake cannot exist
proves nothing about that mistake. A suite is complete if, for each quantization method on each
layout, every wrong answer that can exist was caught in at least one case. Does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.matrix.case import MoETestConfig
from harness.matrix.layout_words import layout_word
from harness.mutants import HYPOTHESES
from harness.record.proof import Outcome, best

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.record.proof import Proof
    from harness.record.result import CaseResult

IMPOSSIBLE = "impossible"  # no case of this quantization method and layout can have the mistake
_SIGNS = {
    Outcome.CAUGHT: "+",
    IMPOSSIBLE: ".",
    Outcome.NOT_APPLICABLE: "?",
    Outcome.MISSED: "!",
}
MEMBERS = tuple(h for h in HYPOTHESES if h.battery)


@dataclass(frozen=True, kw_only=True)
class Line:
    """Hold one quantization method on one layout. words: mistake -> a key of `_SIGNS`."""

    quant: str
    layout: str
    cases: int  # with a self-check
    words: dict[str, str]
    missed: dict[str, str]  # mistakes that would pass in some case -> remedy

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Return the mistakes that can exist on this line and that no case has caught."""
        return tuple(
            m for m, word in self.words.items() if word in (Outcome.MISSED, Outcome.NOT_APPLICABLE)
        )


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Hold one line for each quantization method and layout; complete if nothing is uncovered."""

    table: tuple[Line, ...]

    @property
    def complete(self) -> bool:
        return bool(self.table) and not any(line.uncovered for line in self.table)

    def lines(self) -> list[str]:
        """Return lines for a terminal: numbered mistakes, table, uncovered ones, verdict."""
        width = max([len(f"{line.quant} {line.layout}") for line in self.table], default=0)
        legend = "+ caught, . cannot exist here, ? not applicable in any case, ! missed"
        lines = [f"{number:>3} {h.name}: {h.cause}" for number, h in enumerate(MEMBERS, 1)]
        lines += ["", legend, " " * width + "  cases " + _numbers()]
        for line in self.table:
            signs = "".join(f"{_SIGNS[line.words[h.name]]:>3}" for h in MEMBERS)
            lines.append(f"{f'{line.quant} {line.layout}':<{width}} {line.cases:>6} {signs}")
        return [*lines, "", *self._uncovered_lines(), self._verdict()]

    def _uncovered_lines(self) -> list[str]:
        """Return one line for each uncovered mistake and reason, with its methods and layouts."""
        places: dict[str, list[str]] = {}
        for line in self.table:
            for name in line.uncovered:
                layouts = f"{line.quant} {line.layout}"
                places.setdefault(f"{name} {_reason(line, name)}", []).append(layouts)
        return [f"{text}: {', '.join(layouts)}" for text, layouts in places.items()]

    def _verdict(self) -> str:
        count = sum(len(line.uncovered) for line in self.table)
        if not self.table:
            return "incomplete: no case has proved anything"
        if count:
            return f"incomplete: {count} wrong answer(s) that can exist were never caught"
        pairs = f"{len(self.table)} pair(s) of quantization method and layout"
        return f"complete: on {pairs}, each wrong answer that can exist was caught"


def _numbers() -> str:
    return "".join(f"{number:>3}" for number in range(1, len(MEMBERS) + 1))


def _reason(line: Line, name: str) -> str:
    if name in line.missed:
        return f"would pass; use {line.missed[name]}"
    if line.cases == 0:
        return "was not tried: no case passed"
    return "is not applicable in any case; add a case where it is"


def certificate(results: Iterable[CaseResult]) -> Certificate:
    """Return what these results prove together. Cases that did not pass prove nothing."""
    groups: dict[tuple[str, str], list[tuple[MoETestConfig, tuple[Proof, ...]]]] = {}
    for result in results:
        case = MoETestConfig.from_id(result.case_id)
        key = (case.quant, layout_word(case.layout))
        groups.setdefault(key, []).append((case, result.battery))
    return Certificate(table=tuple(_line(*key, cases) for key, cases in sorted(groups.items())))


def _line(quant: str, layout: str, results: list[tuple[MoETestConfig, tuple[Proof, ...]]]) -> Line:
    layer_specs = {case.layer_spec for case, _ in results}
    words: dict[str, str] = {}
    proofs = [proof for _, battery in results for proof in battery]
    missed = [proof for proof in proofs if proof.outcome is Outcome.MISSED]
    outcomes = {proof.name: proof.outcome for proof in best([proofs])}
    for member in MEMBERS:
        words[member.name] = outcomes.get(member.name, Outcome.NOT_APPLICABLE)
        if not any(member.possible(layer_spec) for layer_spec in layer_specs):
            words[member.name] = IMPOSSIBLE
    cures = {proof.name: proof.explanation for proof in reversed(missed)}  # the first one's
    proved = sum(bool(battery) for _, battery in results)
    return Line(quant=quant, layout=layout, cases=proved, words=words, missed=cures)
