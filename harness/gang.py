"""A gang as the controller sees it: a state machine over messages, exits and time.

    STARTING -> IDLE -> RUNNING -> IDLE            every rank answered, and passed
                        RUNNING -> PROBING -> IDLE every rank answered, and the probe found it fit
                        RUNNING -> EVIDENCE -> DYING  over the limit, or stuck after another's error
                        any     -> DYING -> DEAD   a rank ended, or the owner had enough

Torch-free; it never blocks. The owner watches `channels`, calls `poll` when one of them is readable
or `deadline` has come, and acts on the notices.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from harness import evidence
from harness.bootstrap import KILL_LIMIT, MEMORY_LIMIT, rank_log
from harness.outcome import Ended, Outcome
from harness.protocol import (
    Channel,
    Done,
    EndGang,
    Exited,
    Failed,
    Forked,
    Message,
    Probe,
    Probed,
    Ready,
    RunTask,
    Said,
    SignalRanks,
    Swept,
)

if TYPE_CHECKING:
    from pathlib import Path

    from harness.pool import GangSpec, Pool

START_LIMIT = 180.0  # seconds until all ranks are ready, the forkserver's own start included
GRACE = 2.0  # seconds that the others get after one rank raised
SETTLE = 0.2  # seconds for other ranks to end too, after one ended
EVIDENCE_LIMIT = 1.0  # seconds to wait for stacks
PROBE_LIMIT = 5.0  # seconds
_NONCES = itertools.count(1_000_003, 7919)


class State(Enum):
    STARTING = auto()
    IDLE = auto()
    RUNNING = auto()
    EVIDENCE = auto()
    PROBING = auto()
    DYING = auto()
    DEAD = auto()


@dataclass(frozen=True, kw_only=True)
class GangReady:
    seconds: float


@dataclass(frozen=True, kw_only=True)
class GangDead:
    why: str
    ready: bool  # whether it ever was
    log: str  # what there is to read about a gang that never was


Notice = GangReady | Outcome | GangDead


@dataclass(kw_only=True)
class _Work:
    """The task in hand."""

    task: str = ""
    start: float = 0.0
    limit: float = 0.0  # a point in time
    failed_at: float | None = None
    crashed_at: float | None = None
    answers: dict[int, Done | Failed] = field(default_factory=dict)
    said: dict[int, tuple[str, float]] = field(default_factory=dict)


class Gang:
    """Ranks of one world. Made by `Gang(pool, spec)`, which also starts it."""

    def __init__(self, pool: Pool, spec: GangSpec, call: tuple[str, bytes] | None = None) -> None:
        """call: name and content of a file to put into the gang's folder before it starts."""
        self.spec = spec
        self.world_size = spec.world_size
        self.tasks = 0
        self.folder = pool.new_folder()
        self.logs = {rank: rank_log(self.folder, rank) for rank in range(spec.world_size)}
        self.pids: list[int] = []
        self.swept: Swept | None = None
        if call is not None:
            (self.folder / call[0]).write_bytes(call[1])
        self._pool = pool
        self._born = time.monotonic()
        self._server, self._holder, self._ranks = pool.start(spec, self.folder)
        self._holder_pid = 0
        self._ready: set[int] = set()
        self._was_ready = False
        self._exits: dict[int, int] = {}
        self._probed: dict[int, str] = {}
        self._work = _Work()
        self._marks: dict[int, int] = {}  # log sizes before the stacks were asked for
        self._last_look = 0.0
        self._why = ""
        self._start_log = ""
        self._enter(State.STARTING, START_LIMIT)

    @property
    def channels(self) -> list[Channel]:
        """To be watched; some may be closed, and one is shared with other gangs."""
        return [self._server.channel, self._holder, *self._ranks]

    def run(self, task: str, limit: float) -> None:
        """Hand a task to every rank. limit: seconds."""
        assert self.state is State.IDLE, self.state
        if self.tasks:
            for log in self.logs.values():
                with contextlib.suppress(OSError):
                    log.write_bytes(b"")  # ranks append, so each task's output starts at 0
        self.tasks += 1
        now = time.monotonic()
        self._work = _Work(task=task, start=now, limit=now + limit)
        self._tell(RunTask(task=task))
        self._enter(State.RUNNING, limit)

    def end(self, why: str) -> None:
        """Kill all of it. `GangDead` follows when nothing is left."""
        if self.state in (State.DYING, State.DEAD):
            return
        self._why = why
        with contextlib.suppress(OSError):
            self._holder.send(EndGang())
        self._enter(State.DYING, KILL_LIMIT + MEMORY_LIMIT + 5)

    def poll(self) -> list[Notice]:
        """Read what came, look at the clock, and say what happened."""
        if self.state is State.DEAD:
            return []
        self._server.poll()
        for message in self._holder.receive():
            self._from_holder(message)
        # After the holder's words: what a rank said before its end is in its channel by now.
        for rank, channel in enumerate(self._ranks):
            for message in channel.receive():
                self._from_rank(rank, message)
        return self._step(time.monotonic())

    def _enter(self, state: State, limit: float | None) -> None:
        self.state = state
        self.deadline = None if limit is None else time.monotonic() + limit

    def _tell(self, message: Message) -> None:
        for channel in self._ranks:
            with contextlib.suppress(OSError):  # a dead rank: its exit is reported by the holder
                channel.send(message)

    def _from_holder(self, message: Message) -> None:
        if isinstance(message, Forked):
            self._holder_pid, self.pids = message.holder, message.ranks
        elif isinstance(message, Exited):
            self._exits[message.rank] = message.status
        elif isinstance(message, Swept):
            self.swept = message

    def _from_rank(self, rank: int, message: Message) -> None:
        now = time.monotonic()
        if isinstance(message, Ready):
            self._ready.add(rank)
        elif isinstance(message, Said):
            self._work.said[rank] = (message.text, now)
        elif isinstance(message, Probed):
            self._probed[rank] = message.unfit
        elif isinstance(message, Done | Failed):
            self._work.answers[rank] = message
            if isinstance(message, Failed) and self._work.failed_at is None:
                self._work.failed_at = now

    def _step(self, now: float) -> list[Notice]:
        late = self.deadline is not None and now >= self.deadline
        if self.state is State.DYING:
            return self._when_dying(late)
        if self._holder.closed or (self.state is State.STARTING and self._server.channel.closed):
            return self._when_lost()
        if self.state is State.STARTING:
            return self._when_starting(late)
        if self.state is State.RUNNING:
            return self._when_running(now)
        if self.state is State.EVIDENCE:
            return self._when_looking(now)
        if self.state is State.PROBING:
            self._when_probing(late)
        elif self._exits:
            self.end(f"{self._exit_words()} between cases")
        return []

    def _when_starting(self, late: bool) -> list[Notice]:
        if self._exits:
            self._start_log = self._all_logs()
            self.end(f"{self._exit_words()} before the gang was ready")
        elif len(self._ready) == self.world_size:
            self._was_ready = True
            self._enter(State.IDLE, None)
            return [GangReady(seconds=time.monotonic() - self._born)]
        elif late:
            self._look()
        return []

    def _when_running(self, now: float) -> list[Notice]:
        work = self._work
        missing = set(range(self.world_size)) - work.answers.keys()
        if self._exits:
            work.crashed_at = work.crashed_at or now
            if missing <= self._exits.keys() or now >= work.crashed_at + SETTLE:
                return self._finish(Ended.CRASHED)
            self.deadline = work.crashed_at + SETTLE
        elif not missing:
            return self._finish(Ended.ANSWERED)
        else:
            if work.failed_at is not None:
                self.deadline = min(work.limit, work.failed_at + GRACE)
            if self.deadline is not None and now >= self.deadline:
                self._look()
        return []

    def _look(self) -> None:
        """Ask every rank for its stacks, before it is killed."""
        self._marks = {rank: evidence.size(log) for rank, log in self.logs.items()}
        with contextlib.suppress(OSError):
            self._holder.send(SignalRanks(number=signal.SIGUSR1))
        self._enter(State.EVIDENCE, 0.0)
        self._last_look = time.monotonic() + EVIDENCE_LIMIT

    def _when_looking(self, now: float) -> list[Notice]:
        """Stacks come into the logs, which cannot be waited for: look every 20 ms."""
        waiting = set(self.logs) - self._stacks().keys() - self._exits.keys()
        if waiting and now < self._last_look:
            self.deadline = now + 0.02
            return []
        if not self._was_ready:
            self._start_log = self._all_logs()
            self.end(f"not ready within {START_LIMIT:g} s")
            return []
        return self._finish(Ended.HUNG if self._work.failed_at is None else Ended.STUCK)

    def _stacks(self) -> dict[int, str]:
        texts = {
            rank: evidence.read(log, self._marks.get(rank, 0)) for rank, log in self.logs.items()
        }
        return {rank: text for rank, text in texts.items() if evidence.has_stack(text)}

    def _finish(self, ended: Ended) -> list[Notice]:
        work, now = self._work, time.monotonic()
        silent = ended in (Ended.HUNG, Ended.STUCK)
        outcome = Outcome(
            task=work.task,
            ended=ended,
            seconds=now - work.start,
            answers=work.answers,
            exits=dict(self._exits),
            said={rank: (text, now - at) for rank, (text, at) in work.said.items()},
            stacks=self._stacks() if silent else {},
            logs=self.logs,
        )
        if ended is not Ended.ANSWERED:
            self.end(f"{ended.name.lower()}: {work.task}")
        elif all(isinstance(a, Done) and a.passed for a in work.answers.values()):
            self._enter(State.IDLE, None)
        else:
            self._probed = {}
            self._tell(Probe(nonce=next(_NONCES)))
            self._enter(State.PROBING, PROBE_LIMIT)
        return [outcome]

    def _when_probing(self, late: bool) -> None:
        unfit = {rank: why for rank, why in self._probed.items() if why}
        if self._exits:
            self.end(f"{self._exit_words()} in the probe after a failed case")
        elif unfit or late:
            silent = set(range(self.world_size)) - self._probed.keys()
            unfit |= dict.fromkeys(silent, f"no answer within {PROBE_LIMIT:g} s") if late else {}
            words = "; ".join(f"rank {rank}: {why}" for rank, why in sorted(unfit.items()))
            self.end(f"unfit after a failed case: {words}")
        elif len(self._probed) == self.world_size:
            self._enter(State.IDLE, None)

    def _when_lost(self) -> list[Notice]:
        """The holder or the forkserver is gone, and the ranks with it."""
        running = self.state in (State.RUNNING, State.EVIDENCE)
        notices: list[Notice] = [*self._finish(Ended.LOST)] if running else []
        self._start_log = evidence.read(self._server.log) or self._all_logs()
        self.end("the gang's holder or forkserver ended")
        self.deadline = time.monotonic()
        return notices

    def _when_dying(self, late: bool) -> list[Notice]:
        if self.swept is None and not late and not self._holder.closed:
            return []
        if self.swept is None and self._holder_pid:
            self._pool.kill(self._holder_pid)
        if self.swept and self.swept.survivors:
            self._why += f"; cannot be killed: processes {self.swept.survivors}"
        return [self._dead()]

    def _dead(self) -> GangDead:
        self._enter(State.DEAD, None)
        self._server.gangs -= 1
        for channel in [self._holder, *self._ranks]:
            channel.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return GangDead(why=self._why, ready=self._was_ready, log=self._start_log)

    def _exit_words(self) -> str:
        ends = sorted(self._exits.items())
        return ", ".join(f"rank {rank} {evidence.how_ended(code)}" for rank, code in ends)

    def _all_logs(self) -> str:
        parts = [
            f"rank {rank}:\n{evidence.last_lines(evidence.read(log), 30)}"
            for rank, log in self.logs.items()
        ]
        return "\n".join(parts)
