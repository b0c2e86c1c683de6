"""The engine on real devices: NCCL, shared devices, sticky errors, memory of the dead.

These need GPUs; elsewhere they do not run, and say so.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.engine import device_memory
from harness.engine.hang_evidence import FLIGHT_LIMIT
from harness.engine.run_options import RunOptions
from harness.engine.scheduler import run
from harness.record.events import CaseEnded, CaseStarted, GangEnded, GangStarted
from harness.testing.parallel_launch import parallel_launch
from harness.testing.warm_pool import shutdown
from tests.harness.engine.engine_device_faults import case, used_device

DEVICES = len(list(Path("/dev").glob("nvidia[0-9]*")))
pytestmark = pytest.mark.skipif(DEVICES == 0, reason="needs a GPU; there is no /dev/nvidia0")
two = pytest.mark.skipif(DEVICES < 2, reason="NCCL ranks need a GPU each")

SANDWICH = (
    "collectives",
    "assert_on_device",
    "collectives",
    "raise_all",
    "collectives",
    "die_with_much_memory",
    "need_much_memory",
)


def events_of(folder, world, transport, faults, limit=60.0, **options):
    cases = tuple(case(fault, world, m=1 + i) for i, fault in enumerate(faults))
    job = SimpleNamespace(
        world_size=world,
        device="cuda",
        transport=transport,
        cases=cases,
        time_limit=limit,
        memory_share=0.0,
    )
    options = RunOptions(
        log_dir=folder, executor="tests.harness.engine.engine_device_faults:run_case", **options
    )
    start = time.monotonic()
    events = []
    for event in run(SimpleNamespace(jobs=(job,), refused=()), options):
        print(f"{time.monotonic() - start:7.2f} {event}")
        events.append(event)
    return events


def verdicts(events):
    return [str(event.result.verdict) for event in events if hasattr(event, "result")]


EXPECTED = ["passed", "error", "passed", "error", "passed", "crashed", "passed"]


@two
def test_nccl_gangs_survive_every_fault(tmp_path):
    events = events_of(tmp_path, 2, "nccl", SANDWICH)
    assert verdicts(events) == EXPECTED
    why = [event.reason for event in events if isinstance(event, GangEnded)]
    assert len(why) == 3, "raise_all leaves the gang alive, the sticky error does not"
    assert "device-side assert" in why[0]


@two
def test_a_hang_in_nccl_is_shown_with_stacks_and_flight_records(tmp_path):
    events = events_of(tmp_path, 2, "nccl", ("miss_collective", "collectives"), limit=5.0)
    assert verdicts(events) == ["hung", "passed"]
    (hung, _) = [event.result for event in events if hasattr(event, "result")]
    assert "in _miss_collective" in "\n".join(hung.messages)
    records = sorted(tmp_path.glob("*.flight[01].json"))
    assert len(records) == 2
    assert "nccl:all_reduce" in records[0].read_text()
    assert hung.seconds < 5.0 + FLIGHT_LIMIT, "the records came before they were given up"


def test_ranks_can_share_devices(tmp_path):
    events = events_of(tmp_path, 8, "staged", SANDWICH)
    assert verdicts(events) == EXPECTED
    assert max(e.seconds for e in events if isinstance(e, GangStarted)) < 60


@two
def test_one_rank_gangs_run_at_once_each_on_its_device(tmp_path):
    events = events_of(tmp_path, 1, "nccl", ("collectives",) * 8, devices=2)
    assert verdicts(events) == ["passed"] * 8
    started = [event.devices for event in events if isinstance(event, GangStarted)]
    assert sorted(started) == [[0], [1]]
    first_end = next(i for i, event in enumerate(events) if isinstance(event, GangEnded))
    assert {type(event) for event in events[first_end:]} <= {GangEnded, CaseEnded, CaseStarted}


@two
def test_a_gang_waits_for_the_memory_of_its_own_device(tmp_path):
    # The longest cases come first, which are the last here: one of each on each device.
    faults = (*["need_much_memory"] * 2, *["die_with_much_memory"] * 2)
    events = events_of(tmp_path, 1, "nccl", faults, devices=2)
    assert sorted(verdicts(events)) == ["crashed"] * 2 + ["passed"] * 2


def test_gangs_share_a_device(tmp_path):
    events = events_of(tmp_path, 1, "nccl", ("collectives",) * 8, devices=1, slots=2)
    assert verdicts(events) == ["passed"] * 8
    started = [event.devices for event in events if isinstance(event, GangStarted)]
    assert started == [[0], [0]]


def test_a_launch_on_devices_leaves_the_callers_as_they_were():
    import torch

    before = device_memory.used()
    transport, world = ("nccl", 2) if DEVICES > 1 else ("staged", 1)
    values = parallel_launch(world, used_device, 0, device="cuda", transport=transport)
    assert [value.tolist() for value, _ in values] == [[float(sum(range(world)))] * 4] * world
    assert [index for _, index in values] == list(range(world))
    assert not torch.cuda.is_initialized()
    assert len(before) >= world  # CUDA_VISIBLE_DEVICES may leave some of them out
    assert all(b <= a + (256 << 20) for a, b in zip(before, device_memory.used(), strict=True))
    shutdown()
