"""Events of a run: one frozen dataclass each, written and read as JSON Lines.

The controller writes them to `events.jsonl`; `engine/messages.py` has the messages between
processes. A new kind of event is one class here: `to_line` and `from_line` use its name.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from harness.record.result import CaseResult


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """The first event."""

    time: float  # seconds since the epoch
    cases: list[str]  # ids, in the order in which they will run


@dataclass(frozen=True, kw_only=True)
class GangStarted:
    time: float
    gang: int  # counts from 1 within a run
    world_size: int
    transport: str  # gloo, nccl, staged
    seconds: float  # from the request until every rank was ready
    devices: list[int] = field(default_factory=list)  # of its ranks, in turn; empty on a CPU


@dataclass(frozen=True, kw_only=True)
class GangEnded:
    time: float
    gang: int
    reason: str  # "done", or the reason why the gang could not be used any longer
    cases: int  # number of cases that it ran


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
    """The last event of a complete run; a folder without it is incomplete."""

    time: float
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)


Event = RunStarted | GangStarted | GangEnded | CaseStarted | CaseEnded | RunEnded
_KINDS = {kind.__name__: kind for kind in Event.__args__}


def to_line(event: Event) -> str:
    """Return one line of JSON with a newline; NaN and infinities are as in Python's json."""
    if isinstance(event, CaseEnded):
        data = {"time": event.time, "gang": event.gang, "result": event.result.to_json()}
    else:
        data = dataclasses.asdict(event)
    return json.dumps({"event": type(event).__name__, **data}) + "\n"


def from_line(line: str) -> Event:
    """Return the event of one line. Raises ValueError if the line is not an event."""
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError(f"an event must be a JSON object, not {line[:80]!r}")
    kind = _KINDS.get(data.pop("event", ""))
    if kind is None:
        raise ValueError(f"unknown event: {line[:80]!r}")
    if kind is CaseEnded:
        data["result"] = CaseResult.from_json(data["result"])
    event: Event = kind(**data)
    return event
