"""Faults in real ranks, each before a healthy case: the verdict, the evidence, nothing left."""

from __future__ import annotations

import time

import pytest

from harness.engine import process_tree
from harness.record.events import GangEnded
from harness.record.result import Verdict
from tests.faults import rank_faults
from tests.faults.rank_faults import CHILDREN, EXECUTOR, case, healthy
from tests.harness.engine.engine_tools import events_of, plan, results, shared_pool, wait_for

FAULTS = [fault for fault in rank_faults.FAULTS if fault is not healthy]
VERDICTS = {
    rank_faults.stopped: Verdict.HUNG,
    rank_faults.deadlock_in_c: Verdict.HUNG,
    rank_faults.out_of_memory: Verdict.ERROR,
    rank_faults.fifty_children: Verdict.PASSED,
    rank_faults.flood: Verdict.FAILED,
    rank_faults.output_without_newline: Verdict.CRASHED,
    rank_faults.killed_in_a_collective: Verdict.CRASHED,
}
OF_FOUR = (rank_faults.killed_in_a_collective,)  # ranks; the others are faults of two


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run each fault and a healthy case after it; return results, ends of gangs, and the folder."""
    folder = tmp_path_factory.mktemp("faults")
    cases = [c for f in FAULTS for c in (fault_case(f), next_case(f))]
    jobs = [[c for c in cases if c.world_size == ranks] for ranks in (2, 4)]
    events = events_of(plan(jobs=jobs, limit=4.0), folder, executor=EXECUTOR)
    ends = [event.reason for event in events if isinstance(event, GangEnded)]
    return results(events), ends, folder


def fault_case(fault):
    return case(fault, m=1, ranks=4 if fault in OF_FOUR else 2)


def next_case(fault):
    return case(healthy, m=100 + FAULTS.index(fault), ranks=fault_case(fault).world_size)


def result_of(ran, fault):
    return ran[0][fault_case(fault).id]


def messages(ran, fault):
    return "\n".join(result_of(ran, fault).messages)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_has_its_verdict_and_the_next_case_passes(ran, fault):
    after = ran[0][next_case(fault).id]
    assert result_of(ran, fault).verdict is VERDICTS[fault], messages(ran, fault)
    assert (after.verdict, after.messages) == (Verdict.PASSED, ())


def test_no_process_of_a_fault_is_left(ran):
    pool = shared_pool()
    servers = [*pool._servers.values(), *pool._retired]
    kept = {server.preloaded.pid for server in servers if server.preloaded}

    def left():
        return set(process_tree.descendants(pool.guardian.pid)) - kept

    assert wait_for(lambda: not left(), 5.0), left()


def test_a_hang_in_c_shows_the_line_of_python_that_called_it(ran):
    words = messages(ran, rank_faults.deadlock_in_c)
    assert "rank 1: still running after 4." in words
    assert "in deadlock_in_c" in words


def test_a_stopped_rank_is_named_as_stopped_and_the_other_shows_where_it_waits(ran):
    words = messages(ran, rank_faults.stopped)
    assert "in barrier" in words.partition("rank 1:")[0]
    assert "rank 1: still running after 5." in words  # a second passes for its stack
    assert "its process is stopped" in words


def test_memory_that_cannot_be_had_is_an_error_and_a_limit_left_behind_costs_the_gang(ran):
    assert "can't allocate memory" in messages(ran, rank_faults.out_of_memory)
    (end,) = [reason for reason in ran[1] if reason.startswith("unfit after a failed case")]
    assert "state: the layer lowered the limit RLIMIT_AS from " in end


def test_fifty_children_are_killed_with_their_gang(ran):
    assert sum(f"({CHILDREN} processes that its cases had left behind" in r for r in ran[1]) == 1


def test_the_log_of_a_hundred_megabytes_has_their_begin_and_their_end(ran):
    result = result_of(ran, rank_faults.flood)
    text = (ran[2] / "logs" / result.log).read_text()
    assert len(text) < 1 << 20
    assert text.count("bytes left out ...]") == 1
    assert result.seconds < 4.0


def test_output_without_a_newline_is_shown_and_kept(ran):
    result = result_of(ran, rank_faults.output_without_newline)
    words = messages(ran, rank_faults.output_without_newline)
    assert "rank 1: ended by itself with exit code 7" in words
    assert "    words without an end of line" in words.splitlines()
    log = (ran[2] / "logs" / result.log).read_text()
    assert log.endswith("==== rank 1 ====\nwords without an end of line\n")


def test_a_rank_killed_inside_a_collective_is_named_and_no_other_is_accused(ran):
    result = result_of(ran, rank_faults.killed_in_a_collective)
    assert result.messages[0].startswith("rank 2: ended by SIGKILL")
    assert result.seconds < 4.0, "the others do not wait for the limit"


def test_the_clock_of_the_controller_may_jump(tmp_path, monkeypatch):
    """By a day to and fro, at each reading: no case is over its limit, none lasts a day."""
    jumps = iter([86_400.0, -86_400.0] * 1000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    cases = [case(healthy, m=m) for m in (1, 2, 3)]
    ended = results(events_of(plan(*cases, limit=20.0), tmp_path, executor=EXECUTOR))
    assert [r.verdict for r in ended.values()] == [Verdict.PASSED] * 3
    assert all(0 < r.seconds < 20 for r in ended.values())
    assert next(jumps) is not None
