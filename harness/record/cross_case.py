"""Whether different layouts and members agree on the same global tokens, reference aside.

A reference can be wrong in the same way as what it judges. So each rank compresses some of its
output rows, and the controller compares them across cases that differ only in layout, members
or world size. What may differ: both cases' bounds, and, where the scheme quantizes per shard,
the scheme's own error. Plain Python, so that the controller needs no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.matrix.case import AXES, MoETestConfig
from harness.record.events import CaseEnded, Event
from harness.record.result import CaseResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WIDTH = 32  # numbers a row is compressed to, by random signs
SLACK = 2.0  # the compression may stretch a distance by this: one in 10**13 goes beyond


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """One output row. size: its length; slack: how far a right one may be from it."""

    token: int  # global number
    values: tuple[float, ...]  # WIDTH numbers whose squared length is about the row's
    slack: float  # the row's bound, plus the scheme's own error where shards differ

    def to_json(self) -> dict[str, Any]:
        values = [float(f"{v:.7g}") for v in self.values]  # float32's own digits
        return {"token": self.token, "values": values, "slack": self.slack}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Sketch:
        return cls(token=data["token"], values=tuple(data["values"]), slack=data["slack"])


def content_key(case: MoETestConfig) -> tuple[object, ...]:
    """What must be the same for outputs to be comparable: axes across which they may differ."""
    return tuple(getattr(case, name) for name, axis in AXES.items() if not axis.outputs_agree)


class Agreement:
    """Remembers the first passed case's rows of each content, and compares later ones."""

    def __init__(self) -> None:
        self._first_outputs: dict[tuple[tuple[object, ...], int], tuple[str, Sketch]] = {}

    def check(self, case: MoETestConfig, sketches: list[Sketch]) -> list[str]:
        """What does not agree, one line a pair of cases; new tokens are remembered."""
        key = content_key(case)
        differences: dict[str, str] = {}
        for sketch in sketches:
            other = self._first_outputs.setdefault((key, sketch.token), (case.id, sketch))
            text = _difference(sketch, other[1])
            if text is not None:
                differences.setdefault(other[0], f"disagrees with {other[0]} on {text}")
        return list(differences.values())


def compared(events: Iterable[Event], before: Iterable[Event] = ()) -> Iterator[Event]:
    """The same events, but a passed case that disagrees with an earlier one has failed.

    before: events of the run that is being resumed; their outputs are compared with, too.
    """
    agreement = Agreement()
    for event in before:
        if isinstance(event, CaseEnded):
            _checked(agreement, event.result)
    for event in events:
        if isinstance(event, CaseEnded):
            yield dataclasses.replace(event, result=_checked(agreement, event.result))
        else:
            yield event


def _checked(agreement: Agreement, result: CaseResult) -> CaseResult:
    if result.verdict is not Verdict.PASSED or not result.sketches:
        return result
    sketches = [Sketch.from_json(data) for data in result.sketches]
    differences = agreement.check(MoETestConfig.from_id(result.case_id), sketches)
    if not differences:
        return result
    return dataclasses.replace(result, verdict=Verdict.FAILED, messages=tuple(differences))


def _difference(a: Sketch, b: Sketch) -> str | None:
    apart = sum((x - y) ** 2 for x, y in zip(a.values, b.values, strict=True)) ** 0.5
    allowed = SLACK * (a.slack**2 + b.slack**2) ** 0.5
    if apart <= allowed:
        return None
    return f"token {a.token}: outputs are {apart:.3g} apart, at most {allowed:.3g} is explained"
