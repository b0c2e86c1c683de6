"""Define a gang's states, and what it tells its owner: it is ready, a task ended, it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from harness.engine.task_outcome import Outcome


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
