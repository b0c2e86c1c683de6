"""Each worker has a slot of its own, until its last process is gone."""

from __future__ import annotations

import os
import threading
import time

import pytest

from harness.engine.forkserver_pool import Pool
from harness.engine.gang import Gang
from harness.engine.gang_notices import State, watch
from harness.engine.gang_spec import GangSpec
from harness.errors import InfrastructureError
from harness.testing.worker_slot import WorkerSlot, devices_of


def test_slots_are_taken_in_order_and_given_back(tmp_path):
    first, second = (WorkerSlot.take(tmp_path, 2) for _ in range(2))
    assert (first.number, second.number) == (0, 1)
    first.release()
    again = WorkerSlot.take(tmp_path, 2)
    assert again.number == 0
    again.release()
    second.release()


def test_no_free_slot_is_an_error_and_no_endless_wait(tmp_path):
    taken = WorkerSlot.take(tmp_path, 1)
    with pytest.raises(InfrastructureError, match=r"none of 1 slots became free within 0\.2 s"):
        WorkerSlot.take(tmp_path, 1, limit=0.2)
    taken.release()


def test_a_slot_is_waited_for(tmp_path):
    taken = WorkerSlot.take(tmp_path, 1)
    threading.Timer(0.2, taken.release).start()
    start = time.monotonic()
    WorkerSlot.take(tmp_path, 1, limit=20).release()
    assert 0.1 < time.monotonic() - start < 20


def test_ranks_of_a_killed_worker_hold_its_slot(tmp_path):
    """The worker is a child that is killed; its guardian has the lock until its ranks are gone."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        slot = WorkerSlot.take(tmp_path, 1)
        gang = Gang(
            Pool((slot.fd,)), GangSpec(world_size=1, device="cpu", transport="gloo", options={})
        )
        while gang.state is State.STARTING:
            watch([gang])
            gang.poll()
        os.write(writer, f"{gang.link.rank_pids[0]}".encode())
        os.kill(os.getpid(), 9)
    rank = int(os.read(reader, 20))
    os.waitpid(pid, 0)
    WorkerSlot.take(tmp_path, 1, limit=30).release()
    assert not os.path.exists(f"/proc/{rank}")  # noqa: PTH110
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("number", "share", "total", "expected"),
    [
        (0, 0, 1, ()),  # a CPU
        (0, 2, 4, (0, 1)),
        (1, 2, 4, (2, 3)),
        (1, 2, 5, (2, 3)),
        (2, 1, 2, (0,)),  # shared
    ],
)
def test_workers_have_devices_of_their_own(number, share, total, expected):
    assert devices_of(number, share, total) == expected
