"""Forkservers and gangs of a pool, for the tests of pool, forkserver and ranks."""

from __future__ import annotations

from harness.engine.gang_notices import GangReady, State, watch
from harness.engine.gang_spec import GangSpec
from harness.testing.warm_pool import WarmPool
from tests.harness.engine.engine_tools import wait_for

CPU = GangSpec(world_size=1, device="cpu", transport="gloo", options={})


def warm_server():
    (server,) = WarmPool.get()._servers.values()
    return server


def preloaded(server):
    def ready():
        server.poll()
        return server.preloaded

    return wait_for(ready, 60)


def gang_is_ready(gang):
    while gang.state is State.STARTING:
        watch([gang])
        if any(isinstance(notice, GangReady) for notice in gang.poll()):
            return True
    return False
