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
        self.cpus, self.ready, self.host = cpus, False, None
        self.gone = self.closed = False
        self.error = None
        self.made.append(self)

    def is_ready(self):
        return self.ready

    def connect(self):
        if self.error:
            raise self.error
        self.host = SimpleNamespace(name=f"host{len(self.made)}")

    def is_gone(self):
        return self.gone

    def lose(self):
        self.gone = True

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


def taken(slots):
    """Ask for a place that Ray gives at once."""
    slots.take(TWO)
    FakePlace.made[-1].ready = True
    return slots.take(TWO)


def test_a_place_in_which_no_gang_starts_is_lost_and_three_in_a_row_end_the_run(
    pool, monkeypatch, tmp_path
):
    slots = pool.slots(6, 0)

    def fail(*_):
        raise InfrastructureError("host is gone")

    starts = iter([fail, lambda *_: "gang", fail, fail, fail])
    monkeypatch.setattr(HostPool, "start", lambda *arguments: next(starts)(*arguments))
    for is_lost in (True, False, True, True, True):
        share = taken(slots)
        if is_lost:
            with pytest.raises(InfrastructureError, match="host is gone"):
                pool.start(spec(share.place), tmp_path)
        else:
            assert pool.start(spec(share.place), tmp_path) == "gang"
        assert slots.has_lost(share) is is_lost
        slots.give_back(share)
    with pytest.raises(InfrastructureError, match="host is gone"):
        slots.take(TWO)


def test_an_agent_that_cannot_start_is_tried_elsewhere(pool):
    slots = pool.slots(6, 0)
    slots.take(TWO)
    (first,) = FakePlace.made
    first.ready, first.error = True, InfrastructureError("Ray could not start an agent: node died")
    assert slots.take(TWO) is None
    assert first.closed
    assert taken(slots) is not None
    assert len(FakePlace.made) == 2


def test_a_place_whose_agent_disappears_is_lost(pool):
    slots = pool.slots(6, 0)
    share = taken(slots)
    assert not slots.has_lost(share)
    FakePlace.made[0].gone = True
    assert slots.has_lost(share)


def test_the_end_of_a_run_gives_everything_back(pool):
    slots = pool.slots(6, 0)
    slots.take(TWO)
    FakePlace.made[0].ready = True
    slots.take(TWO)
    slots.take(TWO)
    pool.close()
    assert [place.closed for place in FakePlace.made] == [True, True]
    assert not pool.folder.exists()
