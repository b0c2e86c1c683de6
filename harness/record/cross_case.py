"""Compare outputs for the same global tokens across layouts and members, without the reference.

A reference can share a mistake with the code that it judges. So each rank compresses some of its
output rows, and the controller compares them across cases that differ only in layout, members
or world size. The allowed difference is the tolerance of both cases and, if the scheme quantizes
per shard, the error of the scheme. Plain Python, so that the controller needs no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.matrix.case import AXES
from harness.record.events import CaseEnded, Event
from harness.record.result import CaseResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.matrix.case import MoETestConfig

WIDTH = 32  # numbers that a row is compressed to, by random signs
SLACK = 2.0  # by how much compression stretches a distance; one in 10**13 exceeds it


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """One output row in compressed form."""

    token: int  # global number
    values: tuple[float, ...]  # WIDTH numbers whose length is about the row's
    slack: float  # distance allowed by the row's tolerance, plus the scheme's error per shard

    def to_json(self) -> dict[str, Any]:
        values = [float(f"{v:.7g}") for v in self.values]  # the digits of float32
        return {"token": self.token, "values": values, "slack": self.slack}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Sketch:
        return cls(token=data["token"], values=tuple(data["values"]), slack=data["slack"])


def content_key(case: MoETestConfig) -> tuple[object, ...]:
    """Return the values of all axes that outputs depend on: equal keys can be compared."""
    return tuple(getattr(case, name) for name, axis in AXES.items() if not axis.outputs_agree)


class Agreement:
    """Stores the first passed case's rows for each content key, and compares later ones."""

    def __init__(self) -> None:
        self._first_outputs: dict[tuple[tuple[object, ...], int], tuple[str, Sketch]] = {}

    def check(self, case: MoETestConfig, sketches: list[Sketch]) -> list[str]:
        """Return a line for each earlier case that disagrees; store rows of new tokens."""
        key = content_key(case)
        differences: dict[str, str] = {}
        for sketch in sketches:
            other = self._first_outputs.setdefault((key, sketch.token), (case.id, sketch))
            text = _difference(sketch, other[1])
            if text is not None:
                differences.setdefault(other[0], f"disagrees with {other[0]} on {text}")
        return list(differences.values())


def compared(events: Iterable[Event], before: Iterable[Event] = ()) -> Iterator[Event]:
    """Yield the events, with a passed case turned into a failed one if it disagrees.

    before: events of the run that is being resumed, whose outputs are compared as well.
    """
    agreement = Agreement()
    for event in before:
        if isinstance(event, CaseEnded):
            agreed(agreement, event.result)
    for event in events:
        if isinstance(event, CaseEnded):
            yield dataclasses.replace(event, result=agreed(agreement, event.result))
        else:
            yield event


def agreed(agreement: Agreement, result: CaseResult) -> CaseResult:
    """Return a result, failed instead of passed if it disagrees with an earlier case."""
    if result.verdict is not Verdict.PASSED or not result.sketches:
        return result
    sketches = [Sketch.from_json(data) for data in result.sketches]
    differences = agreement.check(result.judged_case, sketches)
    if not differences:
        return result
    return dataclasses.replace(result, verdict=Verdict.FAILED, messages=tuple(differences))


def first_difference(before: CaseResult, after: CaseResult) -> str | None:
    """Return how the outputs of one case differ in two runs, at its first token; None: nowhere.

    A token that only one of the runs has is not compared.
    """
    known = {data["token"]: Sketch.from_json(data) for data in before.sketches}
    sketches = (Sketch.from_json(data) for data in after.sketches)
    pairs = ((s, known[s.token]) for s in sketches if s.token in known)
    return next((text for a, b in pairs if (text := _difference(a, b)) is not None), None)


def _difference(a: Sketch, b: Sketch) -> str | None:
    """Return how the rows of one token differ, or None if they are within tolerance."""
    distance = sum((x - y) ** 2 for x, y in zip(a.values, b.values, strict=True)) ** 0.5
    allowed = SLACK * (a.slack**2 + b.slack**2) ** 0.5
    if distance <= allowed:
        return None
    return f"token {a.token}: outputs differ by {distance:.3g}, rounding explains {allowed:.3g}"
