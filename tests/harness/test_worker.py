"""The rank's own code: what it sends back, and when it declares itself unfit."""

from __future__ import annotations

import os
import threading

import pytest
import torch
import torch.distributed as dist

from harness import worker
from harness.engine import crash_evidence
from harness.engine.messages import RankInit
from harness.fixtures.rank_context import RankContext
from harness.testing.parallel_launch import parallel_launch
from tests.harness.engine.engine_tools import wait_for


def probe_with_growth(growth):
    context = RankContext(rank=0, world_size=1, device=torch.device("cpu"), transport="gloo")
    readings = [growth]
    before, worker._allocated = worker._allocated, lambda device: readings[0]
    try:
        return worker._probe(context, 5, 0)
    finally:
        worker._allocated = before


def probe_with_nonces():
    """Each rank brings another nonce, as if a collective of an older case were still about."""
    rank, world = dist.get_rank(), dist.get_world_size()
    context = RankContext(rank=rank, world_size=world, device=torch.device("cpu"), transport="gloo")
    return worker._probe(context, 5, 0), worker._probe(context, 5 + rank, 0)


def test_a_probe_passes_in_step_and_fails_out_of_step():
    for good, bad in parallel_launch(2, probe_with_nonces):
        assert good == ""
        assert bad.startswith("a stray collective on cpu: got [[5, 0], [6, 1]]")


def test_a_probe_objects_to_memory_left_behind():
    assert parallel_launch(1, probe_with_growth, worker.MEMORY_GROWTH) == [""]
    (text,) = parallel_launch(1, probe_with_growth, worker.MEMORY_GROWTH + (1 << 20))
    assert text == "the case left 1025 MiB allocated, more than 1024 MiB"


def test_a_flight_record_is_written_when_asked_for_and_not_before(tmp_path, monkeypatch):
    dump = lambda: '{"entries": []}'  # noqa: E731 - only builds with NCCL have the real one
    monkeypatch.setattr(torch._C._distributed_c10d, "_dump_nccl_trace_json", dump, raising=False)
    thread = threading.Thread(target=worker._record_flight, args=(str(tmp_path), 3))
    thread.start()
    assert wait_for(lambda: crash_evidence.ask_for_flights(tmp_path))
    thread.join(5)
    assert not thread.is_alive()
    assert crash_evidence.flight_file(tmp_path, 3).read_text() == '{"entries": []}'


def test_ranks_take_the_devices_of_their_gang_in_turn(monkeypatch):
    current = []  # faked: there are four devices
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    for devices, expected in (([1, 3], [1, 3, 1]), ([2], [2, 2, 2]), ([], [0, 1, 2])):
        init = RankInit(device="cuda", transport="staged", executor="", devices=devices)
        contexts = [worker._context(None, rank, 3, init) for rank in range(3)]
        assert [context.device.index for context in contexts] == expected
    assert [device.index for device in current] == [1, 3, 1, 2, 2, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("allowed", "ranks", "threads"), [(8, 1, 8), (8, 2, 4), (1, 1, 1), (2, 2, 2), (8, 16, 1)]
)
def test_a_rank_takes_its_part_of_the_cores_but_no_more_than_the_environment_allows(
    monkeypatch, allowed, ranks, threads
):
    """`OMP_NUM_THREADS` is the caller's word on them, which torch has read."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: allowed)
    assert worker._threads(ranks) == threads


def test_values_for_the_caller_hold_plain_cpu_tensors():
    x = torch.ones(2, requires_grad=True)
    value = worker.to_host({"a": [x, 1], "b": (x * 2, "text")})
    assert not value["a"][0].requires_grad
    assert value["a"][0].tolist() == [1.0, 1.0]
    assert value["b"][0].tolist() == [2.0, 2.0]
    assert (value["a"][1], value["b"][1]) == (1, "text")


def test_a_context_without_a_controller_can_still_speak():
    context = RankContext(rank=0, world_size=1, device=torch.device("cpu"), transport="gloo")
    context.report_status("to nobody")
    assert context.caches == {}
