"""What one pytest process, or one worker of xdist, holds until its session ends: slot and gangs.

Nothing is started before the first test that needs ranks. No torch.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.engine.warm_gangs import WarmGangs
from harness.plan import machine
from harness.testing.warm_pool import WarmPool, shutdown
from harness.testing.worker_slot import WorkerSlot, devices_of

if TYPE_CHECKING:
    from pathlib import Path

KEPT_GANGS = 2  # warm at once: a suite changes its world size seldom, and tests of a file mostly
KEPT_GANGS_ON_GPUS = 1  # a plan gives one gang's cases the memory of a device


class RanksOfSession:
    """The ranks of this process."""

    def __init__(self, slots: Path | None, workers: int) -> None:
        """slots: folder with the slots of all workers, None without xdist. workers: how many."""
        self._slots, self.workers = slots, workers
        self._keep = KEPT_GANGS
        self._is_open = False

    def keep_for_gpus(self) -> None:
        """Keep fewer gangs. Call it before the first gang starts."""
        self._keep = KEPT_GANGS_ON_GPUS

    @cached_property
    def slot(self) -> int:
        """The number of this process's slot, from 0. Raises InfrastructureError."""
        if self._slots is None:
            return 0
        taken = WorkerSlot.take(self._slots, self.workers)
        WarmPool.held = (taken.fd,)
        shutdown()  # of a pool that was made without it
        return taken.number

    @cached_property
    def gangs(self) -> WarmGangs:
        """The gangs of this process. Raises InfrastructureError if it gets no slot."""
        _ = self.slot
        self._is_open = True
        return WarmGangs(WarmPool.get, self._keep)

    def close(self) -> None:
        """End all ranks; return once they are gone."""
        if self._is_open:
            self.gangs.abandon()
        shutdown()


def devices_for(ranks: RanksOfSession, options: dict[str, Any]) -> tuple[int, ...]:
    """Return the GPUs for a test's ranks: the slot's own; none on the CPU, and all without xdist.

    options: of the mark `world_size`.
    """
    if options.get("device", "cpu") == "cpu" or ranks.workers == 1:
        return ()
    total = machine.detect().devices
    return devices_of(ranks.slot, max(1, total // ranks.workers), total)
