"""Exchange messages with the processes of one gang, and record what they sent.

`gang.py` interprets the messages. Torch-free; it never blocks.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.engine import crash_evidence
from harness.engine.collective_difference import hang_text
from harness.engine.collective_records import read_traces
from harness.engine.messages import (
    Done,
    EndGang,
    Exited,
    Failed,
    Forked,
    Message,
    Probed,
    Ready,
    SignalRanks,
    Status,
    Swept,
)
from harness.engine.rank_bootstrap import rank_log
from harness.record.result import Verdict

if TYPE_CHECKING:
    from harness.engine.channel import Pollable
    from harness.engine.gang_spec import GangSpec
    from harness.engine.gang_starter import GangStarter


@dataclass(kw_only=True)
class Replies:
    """The ranks' messages about one task. Times are as in `time.monotonic()`."""

    answers: dict[int, Done | Failed] = field(default_factory=dict)
    last_status: dict[int, tuple[str, float]] = field(default_factory=dict)
    failed_at: float | None = None  # when the first rank reported an error or a poisoned process


class Link:
    """Channels, process ids and logs of one gang."""

    def __init__(self, pool: GangStarter, spec: GangSpec, call: tuple[str, bytes] | None) -> None:
        """Start the ranks. call: name and content of a file for the gang's folder, or None."""
        self.world_size = spec.world_size
        self.folder = pool.new_folder()
        self.logs = {rank: rank_log(self.folder, rank) for rank in range(spec.world_size)}
        if call is not None:
            (self.folder / call[0]).write_bytes(call[1])
        self.holder_pid = 0
        self.rank_pids: list[int] = []
        self.is_forked = False  # whether the holder has told which processes it forked
        self.ready: set[int] = set()
        self.exits: dict[int, int] = {}  # rank -> as os.waitstatus_to_exitcode gives it
        self.probed: dict[int, str] = {}  # rank -> why it is unfit, or ""
        self.changed = False  # whether cached tensors of a rank changed, by an unknown task
        self.swept: Swept | None = None
        self.replies = Replies()
        self._pool = pool
        self._server, self._holder, self._ranks = pool.start(spec, self.folder)

    @property
    def channels(self) -> list[Pollable]:
        """Return the channels to watch; some may be closed, and gangs share the first."""
        return [*self._server.channel.parts, *self._holder.parts, *self._ranks]

    @property
    def holder_gone(self) -> bool:
        return self._holder.closed

    @property
    def server_gone(self) -> bool:
        return self._server.channel.closed

    @property
    def all_ready(self) -> bool:
        """Return whether every rank is ready and, on this host, its process id is known.

        A gang of one rank waits for nobody: it may be ready before its holder has reported.
        """
        return self.is_forked and len(self.ready) == self.world_size

    @property
    def loss(self) -> str:
        """Return which process or host the gang has lost."""
        return self._holder.loss

    def fetch(self) -> None:
        """Bring the ranks' files into the gang's folder, from other hosts where they are."""
        self._pool.fetch(self.folder)

    @property
    def server_log(self) -> str:
        return crash_evidence.read(self._server.log)

    def read(self) -> None:
        """Read every message that has arrived."""
        self._server.poll()
        for message in self._holder.receive():
            self._from_holder(message)
        # After the holder: what a rank sent before it ended is in its channel by now.
        for rank, channel in enumerate(self._ranks):
            for message in channel.receive():
                self._from_rank(rank, message)

    def send_to_ranks(self, message: Message) -> None:
        """Send a message to every rank, ignoring dead ones: the holder reports their exit."""
        for channel in self._ranks:
            with contextlib.suppress(OSError):
                channel.send(message)

    def signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self._holder.send(SignalRanks(number=number))

    def unkillable_ranks(self) -> tuple[int, ...]:
        """Return the ranks whose processes cannot be killed: all, if one is a child of a rank."""
        pids = set(self.swept.survivors if self.swept else ())
        ranks = tuple(rank for rank, pid in enumerate(self.rank_pids) if pid in pids)
        return tuple(range(self.world_size)) if len(pids) > len(ranks) else ranks

    def ask_to_end(self) -> None:
        with contextlib.suppress(OSError):
            self._holder.send(EndGang())

    def kill_holder(self) -> None:
        """Kill a holder that does not answer; its ranks die with it."""
        if self.holder_pid:
            self._pool.kill(self.holder_pid)

    def clear_logs(self) -> None:
        for log in self.logs.values():
            with contextlib.suppress(OSError):
                log.write_bytes(b"")  # ranks append, so new output starts at 0
        self._pool.cleared(self.folder)

    def close(self) -> None:
        self._server.gangs -= 1
        for channel in [self._holder, *self._ranks]:
            channel.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def exit_words(self) -> str:
        """Describe how each rank ended that has ended."""
        ends = sorted(self.exits.items())
        return ", ".join(f"rank {rank} {crash_evidence.how_ended(code)}" for rank, code in ends)

    def collectives_text(self) -> str:
        """Return in which collective of the latest call ranks wait for others, or ""."""
        return hang_text(read_traces(self.folder, self.world_size))

    def blocked_ranks(self) -> dict[int, str]:
        """Return why a rank answers no signal, for ranks whose state tells."""
        states = {r: crash_evidence.blocked_state(pid) for r, pid in enumerate(self.rank_pids)}
        return {rank: words for rank, words in states.items() if words}

    def log_ends(self) -> str:
        """Return the last lines of each rank's log."""
        self.fetch()
        logs = {
            rank: crash_evidence.last_lines(crash_evidence.read(log), 30)
            for rank, log in self.logs.items()
        }
        return "\n".join(f"rank {rank}:\n{text}" for rank, text in logs.items())

    def _from_holder(self, message: Message) -> None:
        if isinstance(message, Forked):
            self.is_forked = True
            self.holder_pid, self.rank_pids = message.holder, message.ranks
        elif isinstance(message, Exited):
            self.exits[message.rank] = message.status
        elif isinstance(message, Swept):
            self.swept = message

    def _from_rank(self, rank: int, message: Message) -> None:
        now = time.monotonic()
        if isinstance(message, Ready):
            self.ready.add(rank)
        elif isinstance(message, Status):
            self.replies.last_status[rank] = (message.text, now)
        elif isinstance(message, Probed):
            self.probed[rank] = message.unfit
            self.changed |= message.changed
        elif isinstance(message, Done | Failed):
            self.replies.answers[rank] = message
            if _leaves_peers_waiting(message) and self.replies.failed_at is None:
                self.replies.failed_at = now


def _leaves_peers_waiting(message: Done | Failed) -> bool:
    """Return whether peers may wait for a rank's collectives that it will never start.

    So after an exception, or if the rank's process was altered.
    """
    if isinstance(message, Failed):
        return True
    return message.poisoned or message.result.get("verdict") == Verdict.ERROR
