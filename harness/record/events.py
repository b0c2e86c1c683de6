"""What happens during a run, one frozen dataclass each, as JSON Lines both ways.

The controller writes them to `events.jsonl`; what ranks say to it is in protocol.py.
A new kind of event is one class here: `to_line` and `from_line` find it by its class name.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from harness.record.result import CaseResult


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """The first line. `cases` in the order in which they will run."""

    time: float  # seconds since the epoch
    cases: list[str]


@dataclass(frozen=True, kw_only=True)
class GangStarted:
    time: float
    gang: int  # counts from 1 within a run
    world_size: int
    transport: str  # gloo, nccl, staged
    seconds: float  # from the request until every rank said ready


@dataclass(frozen=True, kw_only=True)
class GangEnded:
    time: float
    gang: int
    why: str  # done, or what made it unfit to go on
    cases: int  # how many it ran


@dataclass(frozen=True, kw_only=True)
class CaseStarted:
    time: float
    case_id: str
    gang: int
    attempt: int = 1


@dataclass(frozen=True, kw_only=True)
class CaseEnded:
    time: float
    gang: int
    result: CaseResult


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """The last line of a whole run; a folder without it is incomplete."""

    time: float
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)


Event = RunStarted | GangStarted | GangEnded | CaseStarted | CaseEnded | RunEnded
_KINDS = {kind.__name__: kind for kind in Event.__args__}


def to_line(event: Event) -> str:
    """One line of JSON, with a newline; NaN and infinities are written as Python's json does."""
    if isinstance(event, CaseEnded):
        data = {"time": event.time, "gang": event.gang, "result": event.result.to_json()}
    else:
        data = dataclasses.asdict(event)
    return json.dumps({"event": type(event).__name__, **data}) + "\n"


def from_line(line: str) -> Event:
    """The event of one line. Raises ValueError for a line that is none."""
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError(f"an event is an object: {line[:80]!r}")
    kind = _KINDS.get(data.pop("event", ""))
    if kind is None:
        raise ValueError(f"no such event: {line[:80]!r}")
    if kind is CaseEnded:
        data["result"] = CaseResult.from_json(data["result"])
    event: Event = kind(**data)
    return event
