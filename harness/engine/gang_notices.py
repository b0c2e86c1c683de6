"""Say what a gang tells its owner: that it is ready, what became of a task, its end."""

from __future__ import annotations

from dataclasses import dataclass

from harness.engine.task_outcome import Outcome


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
