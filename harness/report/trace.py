"""Write what ranks did over time in Chrome's Trace Event Format, from a run's events.

Perfetto and chrome://tracing show such a file. A gang is a process and a rank a thread. Times are
the controller's: a rank's case lasts from when the gang was told until all its ranks had answered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.record.events import (
    CaseEnded,
    CaseStarted,
    GangEnded,
    GangStarted,
    RunStarted,
)
from harness.record.summary import BAD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from harness.record.events import Event
    from harness.record.result import CaseResult

NAME = "trace.json"  # of the file, by default
PHASES = 0  # the thread that shows phases; rank r is thread r + 1
AGAIN = "tried again"  # in place of a verdict, for an attempt that was not the last
CUT_OFF = "cut off"  # for a case that was running when the record ends
Entry = dict[str, Any]  # one element of `traceEvents`


@dataclass(kw_only=True)
class _Process:
    """A gang: its number in the trace, its ranks, and the case that it is running."""

    pid: int
    world_size: int
    running: CaseStarted | None = None

    def start(self, event: CaseStarted) -> None:
        """Begin a case; one that is tried with another seed began before."""
        if self.running is None or self.running.case_id != event.case_id:
            self.running = event


@dataclass(kw_only=True)
class _Trace:
    """Turn events into entries. A resumed run counts its gangs anew, and so has other processes."""

    began: float
    gangs: dict[int, _Process] = field(default_factory=dict)
    pids: int = 0

    def entries(self, event: Event) -> Iterator[Entry]:
        if isinstance(event, RunStarted):
            yield from self._cut_off(event.time)
        elif isinstance(event, GangStarted):
            self.pids += 1
            self.gangs[event.gang] = _Process(pid=self.pids, world_size=event.world_size)
            yield from self._names(event)
            yield self._span("start", event.time - event.seconds, event.time, self.pids, PHASES)
        elif isinstance(event, CaseStarted) and event.gang in self.gangs:
            self.gangs[event.gang].start(event)
        elif isinstance(event, CaseEnded) and event.gang in self.gangs:
            yield from self._case(self.gangs[event.gang], event)
        elif isinstance(event, GangEnded) and event.gang in self.gangs:
            yield from self._unanswered(self.gangs.pop(event.gang), event.time, AGAIN)

    def end(self, time: float) -> Iterator[Entry]:
        """Yield what was running when the record ends."""
        yield from self._cut_off(time)

    def _cut_off(self, time: float) -> Iterator[Entry]:
        for process in self.gangs.values():
            yield from self._unanswered(process, time, CUT_OFF)
        self.gangs.clear()

    def _names(self, gang: GangStarted) -> Iterator[Entry]:
        name = f"gang {gang.gang}: {gang.world_size} rank(s) over {gang.transport}"
        yield _name("process_name", self.pids, PHASES, name)
        yield _name("thread_name", self.pids, PHASES, "phases of the slowest rank")
        for rank in range(gang.world_size):
            device = f" on device {gang.devices[rank]}" if rank < len(gang.devices) else ""
            yield _name("thread_name", self.pids, rank + 1, f"rank {rank}{device}")

    def _case(self, process: _Process, event: CaseEnded) -> Iterator[Entry]:
        """Yield the spans of a case on each rank, and of its phases; nothing if it did not run."""
        started, result = process.running, event.result
        if started is None or started.case_id != result.case_id:
            return
        process.running = None
        for rank in range(process.world_size):
            verdict = result.ranks.get(str(rank), str(result.verdict))
            args = {"verdict": verdict, "case": str(result.verdict), "attempt": started.attempt}
            yield {
                **self._span(started.case_id, started.time, event.time, process.pid, rank + 1),
                "cname": "terrible" if result.verdict in BAD else "good",
                "args": args,
            }
        yield from self._phases(process, started.time, event.time, result)

    def _phases(
        self, process: _Process, start: float, end: float, result: CaseResult
    ) -> Iterator[Entry]:
        """Yield phases one after another: only their lengths are recorded."""
        for name, seconds in result.phases.items():
            until = min(start + seconds, end)
            yield self._span(name, start, until, process.pid, PHASES)
            start = until

    def _unanswered(self, process: _Process, time: float, verdict: str) -> Iterator[Entry]:
        """Yield the spans of a case that has no result: of an earlier attempt, or cut off."""
        case, process.running = process.running, None
        for rank in range(process.world_size if case else 0):
            assert case is not None
            args = {"verdict": verdict, "attempt": case.attempt}
            span = self._span(case.case_id, case.time, time, process.pid, rank + 1)
            yield {**span, "cname": "terrible", "args": args}

    def _span(self, name: str, start: float, end: float, pid: int, tid: int) -> Entry:
        """Return a complete event; times in microseconds since the run began."""
        at = round((start - self.began) * 1e6)
        duration = max(0, round((end - start) * 1e6))  # a clock may have been set back
        return {"name": name, "ph": "X", "ts": at, "dur": duration, "pid": pid, "tid": tid}


def trace(events: Sequence[Event]) -> dict[str, Any]:
    """Return the trace of a run, complete or not, as JSON values."""
    state = _Trace(began=events[0].time if events else 0.0)
    entries = [entry for event in events for entry in state.entries(event)]
    entries += state.end(events[-1].time if events else 0.0)
    return {"traceEvents": entries, "displayTimeUnit": "ms"}


def write(events: Sequence[Event], path: Path) -> None:
    """Write the trace. Raises OSError."""
    path.write_text(json.dumps(trace(events)) + "\n", encoding="utf-8")


def _name(kind: str, pid: int, tid: int, text: str) -> Entry:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": text}}
