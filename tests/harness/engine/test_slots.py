"""Which devices and slots gangs get: counted without any process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.engine.slots import Need, Share, Slots


def job(world, device="cuda", memory_share=0.0):
    return SimpleNamespace(world_size=world, device=device, memory_share=memory_share)


@pytest.mark.parametrize(
    ("slots", "devices", "asked", "width", "each", "gangs"),
    [
        (1, 2, job(1), 1, 1, 2),  # whole devices: one-rank gangs on both
        (1, 2, job(2), 2, 1, 1),
        (1, 2, job(8), 2, 1, 1),  # ranks share the devices, and no other gang does
        (1, 4, job(2), 2, 1, 2),
        (1, 4, job(3), 3, 1, 1),
        (4, 2, job(1), 1, 1, 8),
        (4, 2, job(2), 2, 1, 4),
        (4, 2, job(4), 2, 2, 2),
        (4, 2, job(3), 2, 2, 2),
        (4, 2, job(1, memory_share=0.3), 1, 2, 4),
        (4, 2, job(1, memory_share=1.0), 1, 4, 2),
        (4, 4, job(3), 3, 1, 5),  # 16 slots on four devices, three for each gang
        (4, 0, job(1), 1, 4, 1),  # devices are not told apart: one gang at a time
        (4, 0, job(1, "cpu"), 1, 1, 4),
        (4, 0, job(3, "cpu"), 1, 3, 1),
        (2, 0, job(8, "cpu"), 1, 2, 1),
        (2, 0, job(1, "cpu", 0.6), 1, 2, 1),
    ],
)
def test_what_a_gang_needs_and_how_many_run_at_once(slots, devices, asked, width, each, gangs):
    table = Slots(slots, devices)
    need = table.need(asked)
    assert need == Need(width=width, slots=each)
    assert table.gangs(need) == gangs
    taken = [table.take(need) for _ in range(gangs)]
    assert None not in taken, "as many as promised fit"
    assert table.take(need) is None, "and no more"
    for share in taken:
        table.give_back(share)
    assert table.take(need) == taken[0], "all of it is free again"


def test_gangs_are_spread_over_the_devices_with_the_most_free_slots():
    table = Slots(2, 3)
    one, two = Need(width=1, slots=1), Need(width=2, slots=1)
    assert [table.take(one).devices for _ in range(2)] == [(0,), (1,)]
    assert table.take(two).devices == (0, 2)
    assert table.take(two).devices == (1, 2)
    assert table.take(one) is None
    table.give_back(Share(devices=(1,), slots=1))
    assert table.take(one).devices == (1,)


def test_on_a_cpu_a_share_names_no_device():
    table = Slots(2, 0)
    share = table.take(table.need(job(2, "cpu")))
    assert share == Share(devices=(), slots=2)
    assert table.retire(share, (0,), Need(width=1, slots=1)) == []


def test_a_device_on_which_gangs_cannot_start_is_retired_unless_too_few_are_left():
    table = Slots(1, 3)
    one, two = Need(width=1, slots=1), Need(width=2, slots=1)
    pair = table.take(two)
    assert table.retire(pair, (0, 1), two) == [], "both failed: the cause is not a device"
    assert table.retire(pair, (1,), two) == [1]
    assert table.retired(pair) == [1]
    table.give_back(pair)
    assert table.take(two).devices == (0, 2), "nothing lies on the retired device"
    assert table.retire(Share(devices=(0, 2), slots=1), (0,), two) == [], "one would be left"
    assert table.can_hold(two)
    assert not table.can_hold(Need(width=3, slots=1))
    assert table.retire(Share(devices=(2,), slots=1), (0,), one) == [2]
    assert not table.can_hold(two)
    assert table.can_hold(one)


def test_devices_that_a_job_avoids_are_left_to_others():
    table = Slots(1, 4)
    two, avoid = Need(width=2, slots=1), frozenset({0, 1})
    assert table.can_hold(two, avoid)
    assert table.take(two, avoid).devices == (2, 3)
    assert table.take(two, avoid) is None
    assert table.take(two).devices == (0, 1)
    assert not table.can_hold(two, frozenset({0, 1, 2}))


def test_devices_of_ranks_that_cannot_be_killed_are_given_to_nobody():
    table = Slots(1, 2)
    share = table.take(Need(width=2, slots=1))
    assert table.quarantine(share, ()) == []
    assert table.quarantine(share, (1, 3)) == [1], "ranks 1 and 3 share a device"
    assert table.quarantine(share, (0, 1)) == [0], "even the last one"
    table.give_back(share)
    assert not table.can_hold(Need(width=1, slots=1))
    assert table.quarantine(Share(devices=(), slots=1), (0,)) == []
