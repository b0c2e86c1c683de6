"""Gangs stay warm from task to task, and are replaced when they are unfit, or not as asked for."""

from __future__ import annotations

import os
import sys

import pytest

from harness.engine.gang_notices import State
from harness.engine.gang_spec import GangSpec
from harness.engine.task_outcome import Ended
from harness.engine.warm_gangs import GangStartError, WarmGangs, settle
from tests.harness.engine.engine_faults import case
from tests.harness.engine.engine_tools import EXECUTOR, shared_pool


def spec(world_size=2, **changes):
    fields = {"device": "cpu", "transport": "gloo", "executor": EXECUTOR, "options": {}}
    return GangSpec(world_size=world_size, **(fields | changes))


@pytest.fixture
def gangs():
    kept = WarmGangs(shared_pool, keep=2)
    yield kept
    kept.close()


def run(gangs, gang, fault="none", limit=30.0):
    return gangs.run(gang, case(fault).id, limit).ended


def alive(pids):
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]  # noqa: PTH110


def test_the_same_ranks_run_the_next_task(gangs):
    first = gangs.ready(spec())
    assert run(gangs, first) is Ended.ANSWERED
    assert gangs.ready(spec()) is first
    assert run(gangs, first) is Ended.ANSWERED


def test_a_gang_of_another_kind_leaves_the_first_one_warm(gangs):
    first, other = gangs.ready(spec(2)), gangs.ready(spec(1))
    assert gangs.ready(spec(2)) is first
    assert gangs.ready(spec(1)) is other


def test_the_gang_that_was_idle_longest_gives_way(gangs):
    first, second = gangs.ready(spec(2)), gangs.ready(spec(1))
    gangs.ready(spec(2))
    pids = list(second.link.rank_pids)
    gangs.ready(spec(3))
    assert second.state is State.DEAD
    assert alive(pids) == []
    assert gangs.ready(spec(2)) is first


def test_after_a_crash_the_next_task_gets_fresh_ranks(gangs):
    first = gangs.ready(spec())
    assert run(gangs, first, "sigkill") is Ended.CRASHED
    second = gangs.ready(spec())
    assert second is not first
    assert run(gangs, second) is Ended.ANSWERED


def test_after_a_hang_the_next_task_gets_fresh_ranks(gangs):
    first = gangs.ready(spec())
    assert run(gangs, first, "spin", limit=0.5) is Ended.HUNG
    assert run(gangs, gangs.ready(spec())) is Ended.ANSWERED


def test_ranks_that_end_while_nothing_runs_are_replaced(gangs):
    first = gangs.ready(spec())
    os.kill(first.link.rank_pids[1], 9)
    while not first.link.exits:
        first.link.read()
    settle(first)
    assert first.state is State.DEAD
    assert run(gangs, gangs.ready(spec())) is Ended.ANSWERED


@pytest.mark.parametrize("change", ["variable", "path"])
def test_ranks_that_know_another_environment_are_not_used(gangs, monkeypatch, change):
    first = gangs.ready(spec())
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "of another test")
    assert gangs.ready(spec()) is first
    if change == "variable":
        monkeypatch.setenv("SEEN_BY_RANKS", "1")
    else:
        monkeypatch.setattr(sys, "path", [*sys.path, "/nowhere"])
    assert gangs.ready(spec()) is not first


def test_ranks_that_cannot_start_are_an_error_with_their_log(gangs):
    with pytest.raises(GangStartError, match=r"could not start.*\n(.*\n)*.*no_such_module"):
        gangs.ready(spec(executor="no_such_module:run"))


def test_beside_ranks_that_cannot_be_killed_no_gang_starts_on_a_device(gangs, monkeypatch):
    """Stands in for a process in an uninterruptible call of a driver, which a test cannot make."""
    for devices in ((), (0,)):
        first = gangs.ready(spec(devices=devices))
        monkeypatch.setattr(first.link, "unkillable_ranks", lambda: (1,))
        run(gangs, first, "sigkill")
        if not devices:
            assert run(gangs, gangs.ready(spec())) is Ended.ANSWERED  # a CPU goes on
    with pytest.raises(GangStartError, match=r"could not start: crashed \(rank 1 .*SIGKILL"):
        gangs.ready(spec(devices=(0,)))


def test_none_is_left_at_the_end():
    gangs = WarmGangs(shared_pool, keep=2)
    pids = [pid for size in (1, 2) for pid in gangs.ready(spec(size)).link.rank_pids]
    assert len(alive(pids)) == 3
    gangs.close()
    assert alive(pids) == []
