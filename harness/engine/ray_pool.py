"""Start gangs on a Ray cluster, each within a place that Ray gives. Torch-free.

A gang's job keeps its place from its first gang to its last, as it keeps slots of one machine; the
agent there forks each further gang at once. A place whose agent is gone is given back, and its
cases wait until Ray gives another one: on the same node, or elsewhere if the node is gone.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.engine import ray_cluster
from harness.engine.host_pool import HostPool
from harness.engine.ray_cluster import RayPlace
from harness.engine.slots import Slots
from harness.errors import InfrastructureError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.engine.channel import Channel
    from harness.engine.gang_spec import GangSpec
    from harness.engine.host_pool import HostServer
    from harness.engine.ray_cluster import Cluster
    from harness.engine.remote_hosts import JoinedHolders, RemoteHost
    from harness.engine.slots import Need, Share
    from harness.plan.plan import Job


PAUSE = 0.1  # seconds between two questions to Ray
ATTEMPTS = 3  # the run ends after so many places in a row in which no gang started


class RayPool(HostPool):
    """Owns what a run has on the cluster. Close it, or use it in a `with` statement."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.places: dict[int, RayPlace] = {}
        self._asked: RayPlace | None = None  # what Ray has not given yet
        self._count = 0
        self._errors: list[InfrastructureError] = []  # of places since a gang started
        super().__init__((), b"")

    def slots(self, per_device: int, devices: int) -> Slots:
        """Return slots that Ray gives; at most `per_device` at a time. devices: 0, so far."""
        assert devices == 0, devices
        return RaySlots(self, per_device)

    def take(self, cpus: int) -> int | None:
        """Return a number for a place of so many CPUs; None if Ray has none so far.

        What Ray was asked for stays asked until it is given or another size is. Raises
        InfrastructureError if no agent can start, here and there.
        """
        if len(self._errors) == ATTEMPTS:
            raise self._errors[-1]
        if self._asked is not None and self._asked.cpus != cpus:
            self._asked.close()
            self._asked = None
        if self._asked is None:
            self._asked = RayPlace(cpus)
        if not self._asked.is_ready():
            return None
        place, self._asked = self._asked, None
        try:
            place.connect()
        except InfrastructureError as error:
            place.close()
            self._errors.append(error)
            return None
        self._count += 1
        self.places[self._count] = place
        return self._count

    def leave(self, number: int) -> None:
        """Give a place back to Ray."""
        self.places.pop(number).close()

    def start(
        self, spec: GangSpec, folder: Path
    ) -> tuple[HostServer, JoinedHolders, list[Channel]]:
        """Start a gang in its place. Raises InfrastructureError; its place then is gone."""
        try:
            started = super().start(spec, folder)
        except InfrastructureError as error:
            self.places[spec.place].lose()
            self._errors.append(error)
            raise
        self._errors.clear()
        return started

    def hosts_of(self, spec: GangSpec) -> list[RemoteHost]:
        """Return the agent of the gang's place."""
        host = self.places[spec.place].host
        return [host] if host is not None else []

    def close(self) -> None:
        """Give everything back, and leave the cluster."""
        for place in [*self.places.values(), *filter(None, [self._asked])]:
            place.close()
        self.places.clear()
        ray_cluster.disconnect()
        super().close()


class RaySlots(Slots):
    """Count the slots that a run has, and let Ray say when and where the next ones are."""

    def __init__(self, pool: RayPool, slots: int) -> None:
        """slots: that the run has at a time, on all nodes."""
        super().__init__(slots, 0)
        self._pool = pool

    def need(self, job: Job) -> Need:
        """Return what each gang of a job takes, at most all CPUs of the largest node."""
        need = super().need(job)
        return replace(need, slots=min(need.slots, self._pool.cluster.largest))

    def take(self, need: Need, avoid: frozenset[int] = frozenset()) -> Share | None:
        """Take slots; None if too few are free, or if Ray has no place for them so far."""
        share = super().take(need, avoid)
        if share is None:
            return None
        place = self._pool.take(need.slots)
        if place is None:
            super().give_back(share)
            return None
        return replace(share, place=place)

    def has_lost(self, share: Share) -> bool:
        """Return whether the agent of a share's place is gone."""
        return self._pool.places[share.place].is_gone()

    def next_look(self, until: float | None) -> float | None:
        """Return when to ask Ray again: it tells nobody that there is room."""
        soon = time.monotonic() + PAUSE
        return soon if until is None else min(soon, until)

    def give_back(self, share: Share) -> None:
        """Give a share's slots and its place back."""
        super().give_back(share)
        self._pool.leave(share.place)
