"""Tell a case that is too slow for its limit from one that hangs: do its ranks compute? Torch-free.

A rank that hangs in a collective, a lock, a sleep or a pipe takes no time of a processor. One that
still computes takes it until the limit: it is slow, or in an endless loop, which only its stack can
tell apart. On a GPU the processor's time says nothing: a rank that waits for the device may take
all of it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.engine.process_tree import descendants

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

WINDOW = 5.0  # seconds before the limit in which the time is taken, or half of a shorter limit
# The part of a processor that a rank must have taken to count as computing. One that waits takes
# under a hundredth; several that compute on one core, on a machine with other load, share it.
LEAST = 0.1
_TICK = os.sysconf("SC_CLK_TCK")


class RankActivity:
    """Take the processor time of ranks in the last seconds before a limit."""

    def __init__(self, limit: float, *, is_known: bool) -> None:
        """limit: in seconds from now. is_known: whether processors do a rank's work here."""
        self.begins = time.monotonic() + limit - min(WINDOW, limit / 2) if is_known else None
        self._began = 0.0
        self._before: dict[int, float] = {}

    def begin(self, pids: Sequence[int]) -> None:
        """Take the time of each rank. pids: by rank."""
        self._before, self._began, self.begins = _seconds(pids), time.monotonic(), None

    def computing(self, pids: Sequence[int], ranks: Collection[int]) -> dict[int, str]:
        """Return, of these ranks, those that computed since `begin`, with words on how much."""
        window, now = time.monotonic() - self._began, _seconds(pids)
        used = {r: now[r] - self._before[r] for r in ranks if r in now and r in self._before}
        return {
            rank: f"took {seconds:.1f} s of a processor in the last {window:.1f} s"
            for rank, seconds in used.items()
            if seconds >= LEAST * window
        }


def _seconds(pids: Sequence[int]) -> dict[int, float]:
    """Return the processor time of each rank with the processes below it, where it can be read."""
    times = {rank: _of_process(pid) for rank, pid in enumerate(pids)}
    below = {rank: map(_of_process, descendants(pid)) for rank, pid in enumerate(pids)}
    return {
        rank: seconds + sum(filter(None, below[rank]))
        for rank, seconds in times.items()
        if seconds is not None
    }


def _of_process(pid: int) -> float | None:
    """Return the processor time of a process and of its children that ended; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return sum(map(int, text.rpartition(")")[2].split()[11:15])) / _TICK
