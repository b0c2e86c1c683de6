"""Give gangs their share of the machine: slots, and the devices that they lie on.

A slot is room for one rank. A gang of w ranks on a machine with D devices takes min(w, D) of them,
and on each as many slots as it has ranks there, or more if its memory needs more. A CPU counts as
one device. Torch-free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.plan.plan import Job


@dataclass(frozen=True, kw_only=True)
class Need:
    """How much of the machine a gang takes."""

    width: int  # devices; 1 on a CPU
    slots: int  # on each of them


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a gang has taken. devices: indices as torch counts them; empty on a CPU."""

    devices: tuple[int, ...]
    slots: int  # on each of them
    place: int = 0  # which of its pool's; 0 where a pool has one


class Slots:
    """Know which slots are free, and on which devices gangs could not start."""

    def __init__(self, per_device: int, devices: int) -> None:
        """devices: 0 on a machine without any, or where they are not told apart."""
        self.per_device = per_device
        self.devices = devices
        self._free = dict.fromkeys(range(max(1, devices)), per_device)

    def need(self, job: Job) -> Need:
        """Return what each gang of a job takes; all of it if devices are not told apart."""
        if job.device != "cpu" and self.devices == 0:
            return Need(width=1, slots=self.per_device)
        width = min(job.world_size, max(1, self.devices))
        ranks = math.ceil(job.world_size / width)
        memory = math.ceil(job.memory_share * self.per_device)
        return Need(width=width, slots=min(self.per_device, max(ranks, memory)))

    def gangs(self, need: Need) -> int:
        """Return how many such gangs run at once if nothing else does."""
        return max(1, max(1, self.devices) * (self.per_device // need.slots) // need.width)

    def take(self, need: Need, avoid: frozenset[int] = frozenset()) -> Share | None:
        """Take slots on the devices with the most free ones; None if too few are free.

        avoid: devices that are not taken.
        """
        fit = [d for d, free in self._free.items() if free >= need.slots and d not in avoid]
        if len(fit) < need.width:
            return None
        devices = sorted(sorted(fit, key=lambda device: -self._free[device])[: need.width])
        for device in devices:
            self._free[device] -= need.slots
        return Share(devices=tuple(devices) if self.devices else (), slots=need.slots)

    def next_look(self, until: float | None) -> float | None:
        """Return when to try again to take slots, as in `time.monotonic()`; None: not by time.

        until: when the run ends. Slots of this machine are free only once a gang gives them back.
        """
        return until

    def give_back(self, share: Share) -> None:
        for device in share.devices or (0,):
            if device in self._free:
                self._free[device] += share.slots

    def retired(self, share: Share) -> list[int]:
        """Return the devices of a share that are no longer used."""
        return [device for device in share.devices if device not in self._free]

    def has_lost(self, share: Share) -> bool:
        """Return whether no gang can start on a share any more, so that another must be taken."""
        return bool(self.retired(share))

    def retire(self, share: Share, ranks: Iterable[int], need: Need) -> list[int]:
        """Give no more shares on the devices of a gang's ranks that could not start; return them.

        Nothing is retired if that would leave too few devices for such a gang, or if ranks failed
        on all of its several devices: the cause is then not one of them.
        """
        devices = _devices_of(share, ranks)
        remaining = self._free.keys() - devices
        if len(remaining) < need.width or (len(devices) > 1 and devices == set(share.devices)):
            return []
        return self._remove(devices)

    def quarantine(self, share: Share, ranks: Iterable[int]) -> list[int]:
        """Give no more shares on the devices of ranks that cannot be killed; return them.

        They hold memory and may still compute, so this is done even if no device is left. A CPU
        goes on.
        """
        return self._remove(_devices_of(share, ranks) & self._free.keys())

    def _remove(self, devices: set[int]) -> list[int]:
        self._free = {device: n for device, n in self._free.items() if device not in devices}
        return sorted(devices)

    def can_hold(self, need: Need, avoid: frozenset[int] = frozenset()) -> bool:
        """Return whether enough devices are left for such a gang, once others have ended."""
        return len(self._free.keys() - avoid) >= need.width


def _devices_of(share: Share, ranks: Iterable[int]) -> set[int]:
    """Return the devices of a gang's ranks; none on a CPU."""
    return {share.devices[rank % len(share.devices)] for rank in ranks if share.devices}
