"""Whether different layouts and members agree on the same global tokens, reference aside.

A reference can be wrong in the same way as what it judges. So each rank compresses some of its
output rows, and the controller compares them across cases that differ only in layout, members
or world size. What may differ: both cases' bounds, and, where the scheme quantizes per shard,
the scheme's own error. Plain Python, so that the controller needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.case import MoETestConfig

WIDTH = 64  # numbers a row is compressed to, by random signs: squared lengths keep within 2x
SLACK = 2.0  # the compression may stretch a distance by this; 64 numbers: beyond it at 5 sigma
FREE = ("m", "experts", "all2all", "dp_size", "tp_size", "use_ep", "sequence_parallel", "tokens")


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """One output row. size: its length; slack: how far a right one may be from it."""

    token: int  # global number
    values: tuple[float, ...]  # WIDTH numbers whose squared length is about the row's
    slack: float  # the row's bound, plus the scheme's own error where shards differ

    def to_json(self) -> dict[str, Any]:
        return {"token": self.token, "values": list(self.values), "slack": self.slack}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Sketch:
        return cls(token=data["token"], values=tuple(data["values"]), slack=data["slack"])


def content_key(case: MoETestConfig) -> str:
    """What must be the same for outputs to be comparable: the case less its FREE fields."""
    fixed = {"m": 1, "experts": "any", "dp_size": 1, "tp_size": 1, "tokens": "even"}
    plain = {"all2all": "allgather_reducescatter", "use_ep": False, "sequence_parallel": False}
    return case.replace(**fixed, **plain).id


class Agreement:
    """Remembers the first passed case's rows of each content, and compares later ones."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], tuple[str, Sketch]] = {}

    def check(self, case: MoETestConfig, sketches: list[Sketch]) -> list[str]:
        """What does not agree, one line a pair of cases; new tokens are remembered."""
        key, found = content_key(case), {}
        for sketch in sketches:
            other = self._seen.setdefault((key, sketch.token), (case.id, sketch))
            text = _difference(sketch, other[1])
            if text is not None:
                found.setdefault(other[0], f"disagrees with {other[0]} on {text}")
        return list(found.values())


def _difference(a: Sketch, b: Sketch) -> str | None:
    apart = sum((x - y) ** 2 for x, y in zip(a.values, b.values, strict=True)) ** 0.5
    allowed = SLACK * (a.slack**2 + b.slack**2) ** 0.5
    if apart <= allowed:
        return None
    return f"token {a.token}: outputs are {apart:.3g} apart, at most {allowed:.3g} is explained"
