"""Processor time tells a rank that computes from one that waits, in real processes."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from harness.engine import rank_activity
from harness.engine.rank_activity import RankActivity
from tests.harness.engine.engine_tools import events_of, plan, results, wait_for
from tests.harness.engine.test_scheduler import case

BUSY = "while True: pass"
SLEEPS = "import time; time.sleep(999)"
READS = "import sys; sys.stdin.read()"
# A rank whose child computes, as a compiler does.
WAITS_FOR_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"


@pytest.fixture
def started():
    """A function that starts Python processes, and returns their ids in order."""
    processes = []

    def start(*codes):
        for code in codes:
            command = [sys.executable, "-c", code]
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0))
        return [process.pid for process in processes]

    yield start
    for process in processes:
        for pid in rank_activity.descendants(process.pid):
            subprocess.run(["kill", "-9", str(pid)], check=False)
        process.kill()
        process.stdin.close()
        process.wait()


def test_ranks_that_compute_are_told_from_those_that_wait(started):
    pids = started(BUSY, SLEEPS, READS, WAITS_FOR_A_CHILD)
    wait_for(lambda: rank_activity.descendants(pids[3]))
    activity = RankActivity(20.0, is_known=True)
    activity.begin(pids)
    # Each begins by importing, which is work; only those that compute go on.
    wait_for(lambda: set(activity.computing(pids, range(4))) == {0, 3})
    computing = activity.computing(pids, [0, 1])
    assert re.fullmatch(r"took \d+\.\d s of a processor in the last \d+\.\d s", computing[0])
    assert set(computing) == {0}


def test_a_rank_that_is_gone_or_of_another_host_is_not_known(started):
    activity = RankActivity(20.0, is_known=True)
    activity.begin([2**22 + 1])
    assert activity.computing([2**22 + 1], [0]) == {}
    activity.begin([])
    assert activity.computing([], [0, 1]) == {}


@pytest.mark.parametrize(("limit", "before"), [(120.0, rank_activity.WINDOW), (3.0, 1.5)])
def test_the_time_is_taken_before_the_limit_and_not_where_it_says_nothing(limit, before):
    assert RankActivity(limit, is_known=False).begins is None
    now = time.monotonic()
    begins = RankActivity(limit, is_known=True).begins
    assert now + limit - before <= begins
    assert begins <= time.monotonic() + limit - before


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    folder = tmp_path_factory.mktemp("late")
    faults = ("computes", "spin", "ignore_sigterm", "miss_collective", "stuck_in_c")
    cases = {fault: case(fault, m=1) for fault in faults}
    ended = results(events_of(plan(*cases.values(), limit=4.0), folder))
    return {fault: ended[c.id] for fault, c in cases.items()}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("computes", "too_slow"),
        ("spin", "too_slow"),
        ("ignore_sigterm", "hung"),
        ("miss_collective", "hung"),
        ("stuck_in_c", "hung"),
    ],
)
def test_a_case_over_its_limit_is_too_slow_only_if_it_computes(late, fault, reason):
    assert (str(late[fault].verdict), late[fault].reason) == ("hung", reason)


def test_a_slow_case_says_which_rank_computes_and_the_ways_out(late):
    for fault in ("computes", "spin"):
        head = late[fault].messages[0]
        assert head.startswith("too slow for its limit, or in an endless loop, as its frames tell")
        assert "rank 1 took " in head
        assert head.endswith("; give it more time by --time-limit, or run a smaller case")
    assert "rank 0 took" not in late["computes"].messages[0]  # it waits in the collective
    assert not any("too slow" in text for text in late["miss_collective"].messages)
