"""The certificate of a suite's power: which wrong answers it has shown that it would reject.

Each case proves by itself that its check could have failed, but a case in which a mistake cannot
exist proves nothing of it. A suite is whole when, for each quantization method on each layout,
every wrong answer that can exist there was caught in some case. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.matrix.case import MoETestConfig
from harness.mutants import HYPOTHESES
from harness.record.proof import Outcome, best

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.record.proof import Proof
    from harness.record.result import CaseResult
    from moe.layout import Layout

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
    """One quantization method on one layout. words: member -> a key of `_SIGNS`."""

    quant: str
    layout: str
    cases: int  # that proved anything
    words: dict[str, str]
    missed: dict[str, str]  # members that passed in some case, and what would cure it

    @property
    def holes(self) -> tuple[str, ...]:
        """Members that can exist here and that no case has caught."""
        return tuple(
            m for m, word in self.words.items() if word in (Outcome.MISSED, Outcome.NOT_APPLICABLE)
        )


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Whole, or the holes that are left."""

    table: tuple[Line, ...]

    @property
    def whole(self) -> bool:
        return bool(self.table) and not any(line.holes for line in self.table)

    def lines(self) -> list[str]:
        """For a terminal: the members by number, the table, the holes, the word."""
        width = max([len(f"{line.quant} {line.layout}") for line in self.table], default=0)
        legend = "+ caught, . cannot exist here, ? in no case applicable, ! missed"
        found = [f"{number:>3} {h.name}: {h.cause}" for number, h in enumerate(MEMBERS, 1)]
        found += ["", legend, " " * width + "  cases " + _numbers()]
        for line in self.table:
            signs = "".join(f"{_SIGNS[line.words[h.name]]:>3}" for h in MEMBERS)
            found.append(f"{f'{line.quant} {line.layout}':<{width}} {line.cases:>6} {signs}")
        return [*found, "", *self._holes(), self._word()]

    def _holes(self) -> list[str]:
        """One line for each member and reason, with where."""
        found: dict[str, list[str]] = {}
        for line in self.table:
            for name in line.holes:
                where = f"{line.quant} {line.layout}"
                found.setdefault(f"{name} {_why(line, name)}", []).append(where)
        return [f"{text}: {', '.join(where)}" for text, where in found.items()]

    def _word(self) -> str:
        count = sum(len(line.holes) for line in self.table)
        if not self.table:
            return "not whole: no case has proved anything"
        if count:
            return f"not whole: {count} wrong answer(s) that can exist were never caught"
        pairs = f"{len(self.table)} pair(s) of quantization method and layout"
        return f"whole: on {pairs}, each wrong answer that can exist was caught"


def _numbers() -> str:
    return "".join(f"{number:>3}" for number in range(1, len(MEMBERS) + 1))


def _why(line: Line, name: str) -> str:
    if name in line.missed:
        return f"would pass; it takes {line.missed[name]}"
    if line.cases == 0:
        return "was not tried: no case passed"
    return "is in no case applicable; add one where it is"


def certificate(results: Iterable[CaseResult]) -> Certificate:
    """What these results prove, together. Cases that did not pass prove nothing."""
    groups: dict[tuple[str, str], list[tuple[MoETestConfig, tuple[Proof, ...]]]] = {}
    for result in results:
        case = MoETestConfig.from_id(result.case_id)
        key = (case.quant, layout_word(case.layout))
        groups.setdefault(key, []).append((case, result.battery))
    return Certificate(table=tuple(_line(*key, found) for key, found in sorted(groups.items())))


def _line(quant: str, layout: str, found: list[tuple[MoETestConfig, tuple[Proof, ...]]]) -> Line:
    case = found[0][0]
    words: dict[str, str] = {}
    proofs = [proof for _, battery in found for proof in battery]
    missed = [proof for proof in proofs if proof.outcome is Outcome.MISSED]
    outcomes = {proof.name: proof.outcome for proof in best([proofs])}
    for member in MEMBERS:
        words[member.name] = outcomes.get(member.name, Outcome.NOT_APPLICABLE)
        if not member.possible(case.problem.scheme, case.layout):
            words[member.name] = IMPOSSIBLE
    cures = {proof.name: proof.why for proof in reversed(missed)}  # the first one's
    proved = sum(bool(battery) for _, battery in found)
    return Line(quant=quant, layout=layout, cases=proved, words=words, missed=cures)


def layout_word(layout: Layout) -> str:
    """As in case ids: `dp:2-tp:2-ep-sp`, or `1-rank`."""
    sizes = {"dp": layout.dp_size, "tp": layout.tp_size}
    words = [f"{name}:{size}" for name, size in sizes.items() if size > 1]
    words += ["ep"] * layout.use_ep + ["sp"] * layout.sequence_parallel
    return "-".join(words) or "1-rank"
