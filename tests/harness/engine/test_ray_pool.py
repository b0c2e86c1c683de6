"""Places of a run on a cluster: asked for once, given back, and mended; without Ray itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.engine import ray_pool
from harness.engine.gang_spec import GangSpec
from harness.engine.host_pool import HostPool
from harness.engine.ray_cluster import Cluster
from harness.engine.ray_pool import RayPool
from harness.engine.slots import Need
from harness.errors import InfrastructureError

TWO = Need(width=1, slots=2)


class FakePlace:
    """A place that Ray gives when the test says so."""

    made: list = []  # noqa: RUF012

    def __init__(self, cpus):
        self.cpus, self.ready, self.host, self.renewed = cpus, False, None, 0
        self.closed = False
        self.made.append(self)

    def is_ready(self):
        return self.ready

    def connect(self):
        self.host = SimpleNamespace(name=f"host{len(self.made)}")

    def renew(self):
        self.renewed += 1

    def close(self):
        self.closed = True


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(ray_pool, "RayPlace", FakePlace)
    monkeypatch.setattr(ray_pool.ray_cluster, "disconnect", lambda: None)
    FakePlace.made = []
    with RayPool(Cluster(cpus=6, largest=4)) as pool:
        yield pool


def spec(place):
    return GangSpec(world_size=2, device="cpu", transport="gloo", options={}, place=place)


def test_a_place_is_asked_for_once_and_taken_when_ray_gives_it(pool):
    slots = pool.slots(6, 0)
    assert [slots.take(TWO), slots.take(TWO)] == [None, None]
    (place,) = FakePlace.made
    place.ready = True
    share = slots.take(TWO)
    assert (share.slots, share.devices, share.place) == (2, (), 1)
    assert pool.hosts_of(spec(share.place)) == [place.host]
    slots.give_back(share)
    assert place.closed


def test_what_ray_did_not_give_counts_as_free(pool):
    slots = pool.slots(2, 0)
    assert slots.take(TWO) is None
    FakePlace.made[0].ready = True
    assert slots.take(TWO) is not None
    assert slots.take(TWO) is None
    assert len(FakePlace.made) == 1, "the run has no slots left, so Ray is asked for nothing"


def test_a_place_of_another_size_takes_the_place_of_what_is_asked(pool):
    slots = pool.slots(6, 0)
    slots.take(TWO)
    slots.take(Need(width=1, slots=1))
    assert [(place.cpus, place.closed) for place in FakePlace.made] == [(2, True), (1, False)]


def test_a_gang_needs_no_more_than_the_largest_node_has(pool):
    job = SimpleNamespace(world_size=8, device="cpu", memory_share=0.1)
    assert pool.slots(6, 0).need(job).slots == 4
    assert pool.slots(6, 0).gangs(TWO) == 3


def test_ray_is_asked_again_before_the_run_ends(pool, monkeypatch):
    monkeypatch.setattr(ray_pool.time, "monotonic", lambda: 10.0)
    slots = pool.slots(6, 0)
    assert slots.next_look(None) == slots.next_look(99.0) == 10.0 + ray_pool.PAUSE
    assert slots.next_look(10.01) == 10.01


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_an_agent_that_is_gone_is_replaced_once(pool, monkeypatch, tmp_path, failures):
    slots = pool.slots(6, 0)
    slots.take(TWO)
    FakePlace.made[0].ready = True
    share, calls = slots.take(TWO), []

    def start(self, spec, folder):
        calls.append(spec.place)
        if len(calls) <= failures:
            raise InfrastructureError("host is gone")
        return "gang"

    monkeypatch.setattr(HostPool, "start", start)
    if failures == 2:
        with pytest.raises(InfrastructureError, match="host is gone"):
            pool.start(spec(share.place), tmp_path)
    else:
        assert pool.start(spec(share.place), tmp_path) == "gang"
    assert FakePlace.made[0].renewed == min(failures, 1)


def test_the_end_of_a_run_gives_everything_back(pool):
    slots = pool.slots(6, 0)
    slots.take(TWO)
    FakePlace.made[0].ready = True
    slots.take(TWO)
    slots.take(TWO)
    pool.close()
    assert [place.closed for place in FakePlace.made] == [True, True]
    assert not pool.folder.exists()
