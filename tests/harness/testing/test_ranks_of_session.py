"""What a pytest process holds: a slot once it needs one, its gangs, and nothing at its end."""

from __future__ import annotations

import os

import pytest

from harness.engine.gang_spec import GangSpec
from harness.plan import machine
from harness.testing.ranks_of_session import RanksOfSession, devices_for
from harness.testing.warm_pool import WarmPool
from harness.testing.worker_slot import WorkerSlot

SPEC = GangSpec(world_size=1, device="cpu", transport="gloo", options={})


@pytest.fixture(autouse=True)
def _nothing_held():
    yield
    WarmPool.held = ()


def test_ranks_are_gone_once_it_is_closed():
    ranks = RanksOfSession(None, 1)
    (pid,) = ranks.gangs.ready(SPEC).link.rank_pids
    assert os.path.exists(f"/proc/{pid}")  # noqa: PTH110
    ranks.close()
    assert not os.path.exists(f"/proc/{pid}")  # noqa: PTH110


def test_a_worker_takes_a_free_slot_once_it_needs_one(tmp_path):
    other = WorkerSlot.take(tmp_path, 2)
    ranks = RanksOfSession(tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 1
    assert (other.number, ranks.slot) == (0, 1)
    fd = WarmPool.held[0]
    other.release()
    os.close(fd)


def test_a_test_has_the_devices_of_its_workers_slot(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "detect", lambda: machine.planned_for("cuda_sm90", 4))
    ranks = RanksOfSession(None, 2)
    ranks.__dict__["slot"] = 1
    assert devices_for(ranks, {"device": "cuda"}) == (2, 3)
    assert devices_for(ranks, {}) == ()
    assert devices_for(RanksOfSession(None, 1), {"device": "cuda"}) == ()
