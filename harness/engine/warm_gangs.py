"""Keep gangs warm for a caller that decides from task to task what runs next. Torch-free.

`scheduler` runs a whole plan and ends each gang with its job. A test runner learns of one test at a
time: here a gang stays until another one needs its place, its environment changes, or a task made
it unfit.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.engine.gang import Gang
from harness.engine.gang_notices import GangDead, GangReady, State, watch
from harness.engine.task_outcome import Outcome
from harness.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.engine.forkserver_pool import Pool
    from harness.engine.gang_notices import Notice
    from harness.engine.gang_spec import GangSpec

START_ATTEMPTS = 2  # gangs that fail to start before the caller learns of it
_CHANGES_WITH_EACH_TEST = "PYTEST_CURRENT_TEST"
_BUSY = (State.PROBING, State.DYING)


class GangStartError(InfrastructureError):
    """Raised if the ranks could not start; the text has their logs."""


@dataclass(frozen=True)
class Surroundings:
    """What ranks take from the caller's process when they start."""

    sys_path: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    @classmethod
    def now(cls) -> Surroundings:
        """Return those of this process."""
        variables = (item for item in os.environ.items() if item[0] != _CHANGES_WITH_EACH_TEST)
        return cls(sys_path=tuple(sys.path), environment=tuple(sorted(variables)))


@dataclass(frozen=True, kw_only=True)
class WarmGang:
    """A gang with what it was started for. eq compares descriptions, since gangs compare by id."""

    gang: Gang
    spec: GangSpec
    surroundings: Surroundings


class WarmGangs:
    """Own up to `keep` gangs of different kinds; the one that was idle longest gives way."""

    def __init__(self, pool: Callable[[], Pool], keep: int) -> None:
        """pool: returns the pool in which to start gangs; another one, if the first was lost."""
        self._pool = pool
        self._keep = keep
        self._gangs: list[WarmGang] = []  # the most recently used last
        self._lost = ""  # why no further gang may start: ranks on a device cannot be killed

    def ready(self, spec: GangSpec) -> Gang:
        """Return an idle gang of this kind, warm if there is one.

        Raises GangStartError if START_ATTEMPTS gangs could not start, or if ranks on this caller's
        devices cannot be killed: they hold memory and may still compute.
        """
        around = Surroundings.now()
        for warm in list(self._gangs):
            alive = self._settled(warm)
            if alive and (warm.spec, warm.surroundings) == (spec, around):
                self._gangs.remove(warm)
                self._gangs.append(warm)
                return warm.gang
            if not alive:
                self._gangs.remove(warm)
        self._make_room()
        if self._lost:
            raise GangStartError(f"the ranks could not start: {self._lost}")
        gang = self._started(spec)
        self._gangs.append(WarmGang(gang=gang, spec=spec, surroundings=around))
        return gang

    def run(self, gang: Gang, task: str, limit: float, *, sum_all: bool = False) -> Outcome:
        """Run a task on an idle gang and return how it ended, at once.

        The logs of the outcome exist until the next call of `ready`. limit: seconds. sum_all: see
        RunTask.
        """
        gang.run(task, limit, sum_all=sum_all)
        while True:
            for notice in _next_notices(gang):
                if isinstance(notice, Outcome):
                    return notice

    def close(self) -> None:
        """End all gangs; return once their processes are gone."""
        for warm in self._gangs:
            warm.gang.end("done")
            self._settled(warm)
        self._gangs.clear()

    def abandon(self) -> None:
        """End all gangs without waiting for them."""
        for warm in self._gangs:
            warm.gang.abandon()
        self._gangs.clear()

    def retire(self, gang: Gang, reason: str) -> None:
        """End a gang, so that the next task gets a fresh one."""
        gang.end(reason)
        for warm in self._gangs:
            if warm.gang is gang:
                self._settled(warm)

    def _make_room(self) -> None:
        while len(self._gangs) >= self._keep:
            oldest = self._gangs.pop(0)
            oldest.gang.end("another gang takes its place")
            self._settled(oldest)

    def _settled(self, warm: WarmGang) -> bool:
        """Wait until a gang is idle after its last task; return False if it has ended instead."""
        for notice in settle(warm.gang):
            if isinstance(notice, GangDead) and notice.unkillable and warm.spec.devices:
                self._lost = notice.reason
        return warm.gang.state is State.IDLE

    def _started(self, spec: GangSpec) -> Gang:
        for attempt in range(1, START_ATTEMPTS + 1):
            gang = Gang(self._pool(), spec)
            try:
                dead = _until_ready(gang)
            except BaseException:  # an interrupt: leave no process behind
                gang.abandon()
                raise
            if dead is None:
                return gang
            if attempt == START_ATTEMPTS:
                raise GangStartError(f"the ranks could not start: {dead.reason}\n{dead.log}")
        raise AssertionError("unreachable")


def settle(gang: Gang) -> list[Notice]:
    """Wait until a gang is idle after its last task, or has ended; return what happened."""
    notices = [] if gang.state in _BUSY else gang.poll()  # a rank may have ended meanwhile
    while gang.state in _BUSY:
        notices += _next_notices(gang)
    return notices


def _until_ready(gang: Gang) -> GangDead | None:
    """Wait for all ranks; return None, or how the gang ended before."""
    while True:
        for notice in _next_notices(gang):
            if isinstance(notice, GangReady):
                return None
            if isinstance(notice, GangDead):
                return notice


def _next_notices(gang: Gang) -> list[Notice]:
    watch([gang])
    return gang.poll()
