"""Define a gang's states, what it tells its owner, and how an owner waits for it."""

from __future__ import annotations

import selectors
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from harness.engine.task_outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.engine.gang import Gang


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
    reason: str
    ready: bool  # whether all ranks were ready at any time
    log: str  # the ranks' output, for a gang that was never ready
    changed: bool = False  # whether its cached tensors changed, by an unknown task
    unready: tuple[int, ...] = ()  # of a gang that was never ready: ranks that kept it from that
    unkillable: tuple[int, ...] = ()  # ranks with a process that cannot be killed


Notice = GangReady | Outcome | GangDead


def watch(gangs: Sequence[Gang], until: float | None = None) -> None:
    """Wait until a channel of the gangs is readable, or for their first deadline or `until`."""
    deadlines = [d for d in (until, *(gang.deadline for gang in gangs)) if d is not None]
    timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
    channels = {c.fileno(): c for gang in gangs for c in gang.link.channels if not c.closed}
    with selectors.PollSelector() as selector:
        for channel in channels.values():
            selector.register(channel, selectors.EVENT_READ)
        selector.select(timeout)
