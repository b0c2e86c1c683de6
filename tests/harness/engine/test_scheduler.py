"""Real faults in real ranks: each costs exactly its case, with the right verdict and evidence."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections import Counter

import pytest

from harness.engine import process_tree, scheduler
from harness.engine.gang import GRACE
from harness.engine.gang_channels import Link
from harness.engine.job_run import BATCH
from harness.engine.messages import Swept
from harness.engine.run_options import RunOptions
from harness.engine.scheduler import run
from harness.record.events import CaseEnded, CaseStarted, GangEnded, GangStarted
from harness.record.result import Verdict
from tests.harness.engine.engine_faults import case
from tests.harness.engine.engine_tools import (
    EXECUTOR,
    events_of,
    plan,
    results,
    shared_pool,
    wait_for,
)

QUICK = (
    "none",
    "matmul",
    "fail",
    "raise_on_one",
    "raise_all",
    "exit_zero",
    "os_exit",
    "sigkill",
    "segfault",
    "stray",
    "mixed_order",
    "vacuous",
    "noisy",
    "not_a_result",
    "kill_holder",
    "setsid_grandchild",
)
HANGING = ("ignore_sigterm", "spin", "miss_collective")


def sandwich(faults):
    """Each fault followed by a healthy case of its own, which must pass."""
    return [c for i, name in enumerate(faults) for c in (case(name, m=1), case("none", m=100 + i))]


class Ran:
    def __init__(self, events, folder):
        self.events = events
        self.folder = folder
        self.results = results(events)

    def __getitem__(self, fault):
        return self.results[case(fault, m=1).id]

    def text(self, fault):
        return "\n".join(self[fault].messages)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick")
    return Ran(events_of(plan(*sandwich(QUICK)), folder), folder)


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hanging")
    return Ran(events_of(plan(*sandwich(HANGING), limit=3.0), folder), folder)


@pytest.mark.parametrize("name", ["quick", "hanging"])
def test_a_fault_costs_exactly_its_case(name, request):
    ran = request.getfixturevalue(name)
    faults = {"quick": QUICK, "hanging": HANGING}[name]
    healthy = [case("none", m=100 + i).id for i in range(len(faults))]
    assert {c: str(ran.results[c].verdict) for c in healthy} == dict.fromkeys(healthy, "passed")
    assert len(ran.results) == 2 * len(faults)


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ("none", "passed"),
        ("matmul", "passed"),
        ("fail", "failed"),
        ("vacuous", "vacuous"),
        ("raise_on_one", "error"),
        ("raise_all", "error"),
        ("not_a_result", "error"),
        ("exit_zero", "crashed"),
        ("os_exit", "crashed"),
        ("sigkill", "crashed"),
        ("segfault", "crashed"),
        ("kill_holder", "infra"),
        ("setsid_grandchild", "passed"),
    ],
)
def test_the_verdict_fits_the_fault(quick, fault, verdict):
    assert str(quick[fault].verdict) == verdict, quick[fault]


@pytest.mark.parametrize("fault", ["ignore_sigterm", "spin", "miss_collective"])
def test_a_case_over_its_limit_is_hung_and_shows_where(hanging, fault):
    result = hanging[fault]
    assert result.verdict is Verdict.HUNG
    assert result.seconds >= 3.0
    assert f"in _{fault}" in hanging.text(fault)
    assert "rank 1: still running after " in hanging.text(fault)


def test_a_hang_says_what_the_rank_said_last(hanging):
    assert "last status 'asleep in the fault'" in hanging.text("ignore_sigterm")


def test_a_rank_that_answered_before_the_others_hung_is_not_accused(hanging):
    assert hanging["spin"].ranks == {"0": "passed", "1": "silent"}
    assert "rank 0: still running" not in hanging.text("spin")
    assert "rank 0: passed" in hanging.text("spin")


def test_an_error_while_others_wait_costs_the_grace_and_not_the_limit(tmp_path):
    events = events_of(plan(case("raise_while_others_wait"), limit=60.0), tmp_path)
    (result,) = results(events).values()
    assert result.verdict is Verdict.ERROR
    assert GRACE <= result.seconds < 60.0
    assert result.messages[0].startswith("rank 1: Traceback")
    assert "before the collective" in result.messages[0]
    assert "rank 0: still running" in result.messages[1]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("exit_zero", "rank 1: ended by itself with exit code 0"),
        ("exit_zero", "leaving early"),
        ("os_exit", "rank 1: ended by itself with exit code 7"),
        ("sigkill", "rank 1: ended by SIGKILL"),
        ("raise_on_one", "ValueError: the fault of rank 1"),
        ("raise_all", "rank 0,1: Traceback"),
        (
            "not_a_result",
            "tests.harness.engine.engine_faults:run_case must return a RankResult, not str",
        ),
    ],
)
def test_a_failure_is_explained_with_its_rank(quick, fault, words):
    assert words in quick.text(fault)


def test_a_fatal_signal_shows_the_stack_of_the_rank_that_died(quick):
    first = quick["segfault"].messages[0]
    assert first.startswith("rank 1: ended by SIGSEGV")
    assert "in string_at" in first
    assert "in _segfault" in first


def test_tracebacks_begin_in_the_executor(quick):
    assert "worker.py" not in quick.text("raise_all")


def test_every_rank_counts(quick):
    assert quick["raise_on_one"].ranks == {"0": "passed", "1": "error"}
    assert quick["exit_zero"].ranks["1"] == "crashed"


def test_a_failed_case_has_a_log_of_its_own_output_and_a_passed_one_none(quick):
    log = (quick.folder / "logs" / quick["noisy"].log).read_text()
    for rank in (0, 1):
        assert f"==== rank {rank} ====\nline of rank {rank}\nline from C\n" in log
    other = (quick.folder / "logs" / quick["not_a_result"].log).read_text()
    assert "line of rank" not in other
    assert quick["matmul"].log is None
    logged = {path.name for path in (quick.folder / "logs").iterdir()}
    assert logged == {r.log for r in quick.results.values() if r.verdict is not Verdict.PASSED}


def test_a_gang_outlives_a_failure_unless_the_probe_objects(quick):
    """fail, raise_on_one, raise_all leave the gang as it is; a stray collective does not."""
    why = [event.reason for event in quick.events if isinstance(event, GangEnded)]
    ended = [w.partition(":")[0].partition(" (")[0] for w in why]
    assert ended == [*["crashed"] * 4, "unfit after a failed case", "lost", "done"]
    assert "a stray collective on cpu" in why[-3]


def test_gangs_after_the_first_start_within_half_a_second(quick):
    started = [e.seconds for e in quick.events if isinstance(e, GangStarted)]
    assert len(started) == 7
    assert sorted(started[1:])[2] < 0.5


def servers_of(pool):
    servers = [*pool._servers.values(), *pool._retired]
    return {server.preloaded.pid for server in servers if server.preloaded}


def test_nothing_outlives_its_gang(quick):
    """Orphans that left their session, and ranks whose holder was killed, among them."""
    assert quick["setsid_grandchild"].verdict is Verdict.PASSED
    assert quick["kill_holder"].verdict is Verdict.INFRA
    pool = shared_pool()

    def left():
        return set(process_tree.descendants(pool.guardian.pid)) - servers_of(pool)

    assert wait_for(lambda: not left(), 5.0), left()


def test_a_passing_retry_in_a_fresh_gang_is_flaky(tmp_path):
    cases = [case("none", m=1), case("flaky"), case("none", m=2), case("raise_all")]
    events = events_of(plan(*cases), tmp_path, retries=1)
    found = results(events)
    flaky, hopeless = found[cases[1].id], found[cases[3].id]
    assert [str(found[c.id].verdict) for c in cases] == ["passed", "flaky", "passed", "error"]
    assert flaky.attempt == hopeless.attempt == 2
    assert "attempt 1 was error: rank 0,1" in flaky.messages[0]
    assert (tmp_path / "logs" / flaky.log).is_file()
    (first,) = flaky.earlier
    assert first.verdict is Verdict.ERROR
    assert first.seconds > 0
    assert first.reason.startswith("rank 0,1: ")
    assert "\n" not in first.reason
    assert [str(attempt.verdict) for attempt in hopeless.earlier] == ["error"]
    starts = [e for e in events if isinstance(e, CaseStarted) and e.case_id == cases[1].id]
    assert [e.attempt for e in starts] == [1, 2]
    assert starts[0].gang != starts[1].gang


def test_without_retries_the_same_case_has_simply_failed(tmp_path):
    (result,) = results(events_of(plan(case("flaky")), tmp_path)).values()
    assert (result.verdict, result.attempt) == (Verdict.ERROR, 1)


def test_a_run_stops_when_its_time_is_over_and_leaves_no_process(tmp_path):
    cases = [case("none", m=1), case("spin"), case("none", m=2)]
    events_of(plan(case("none")), tmp_path)  # the start of the forkserver takes none of the time
    pool, began = shared_pool(), time.monotonic()
    events = events_of(plan(*cases), tmp_path, until=began + 2.0)
    assert 2.0 <= time.monotonic() - began < 30.0  # the limit of the case that spins
    assert list(results(events)) == [cases[0].id]
    started = [event.case_id for event in events if isinstance(event, CaseStarted)]
    assert started == [cases[0].id, cases[1].id]
    guardian = pool.guardian.pid
    assert wait_for(lambda: set(process_tree.descendants(guardian)) <= servers_of(pool), 5.0)


def test_fail_fast_names_the_cases_that_did_not_run(tmp_path):
    jobs = [[case("none", m=1), case("fail"), case("none", m=2)], [case("none", m=3)]]
    found = list(results(events_of(plan(jobs=jobs), tmp_path, fail_fast=True)).values())
    assert [str(r.verdict) for r in found] == ["passed", "failed", "not_run", "not_run"]
    assert {r.reason for r in found[2:]} == {"fail_fast"}


def test_a_forgiven_failure_does_not_end_a_run_with_fail_fast(tmp_path):
    cases = [case("fail", m=1), case("none", m=2), case("fail", m=3), case("none", m=4)]
    forgiven = frozenset({cases[0].id})
    events = events_of(plan(*cases), tmp_path, fail_fast=True, forgiven=forgiven)
    verdicts = [str(result.verdict) for result in results(events).values()]
    assert verdicts == ["failed", "passed", "failed", "not_run"]


def test_slots_let_narrow_gangs_run_side_by_side_and_wide_ones_alone(tmp_path):
    narrow = [[case("slow", world=1, m=m)] for m in (1, 2)]
    events = events_of(plan(jobs=[*narrow, [case("none", world=2)]]), tmp_path, slots=2)
    kinds = [(type(e).__name__, e.gang) for e in events]
    both = [kinds.index(("CaseStarted", gang)) for gang in (1, 2)]
    assert max(both) < min(kinds.index(("CaseEnded", gang)) for gang in (1, 2))
    assert kinds.index(("GangStarted", 3)) > max(kinds.index(("GangEnded", g)) for g in (1, 2))
    assert {r.verdict for r in results(events).values()} == {Verdict.PASSED}


def test_gangs_share_a_jobs_cases_as_far_as_slots_and_memory_go(tmp_path):
    cases = [case("none", world=1, m=m) for m in range(1, 2 * BATCH + 2)]
    shared = events_of(plan(*cases), tmp_path / "shared", slots=3)
    ran = Counter(event.gang for event in shared if isinstance(event, CaseEnded))
    assert len(ran) == 3
    assert sorted(results(shared)) == sorted(c.id for c in cases)
    large = events_of(plan(*cases, memory_share=0.6), tmp_path / "large", slots=3)
    assert {event.gang for event in large if isinstance(event, CaseEnded)} == {1}


# Devices are faked: the scheduler shares out two or four, and the ranks stay on the CPU.


def test_gangs_on_different_devices_run_at_once(tmp_path):
    narrow = [case("slow", world=1, m=m) for m in (1, 2)]
    wide = [case("none", world=3, m=3)]
    events = events_of(plan(jobs=[narrow, wide]), tmp_path, devices=2)
    kinds = [(type(e).__name__, e.gang) for e in events]
    both = [kinds.index(("CaseStarted", gang)) for gang in (1, 2)]
    assert max(both) < min(kinds.index(("CaseEnded", gang)) for gang in (1, 2))
    assert kinds.index(("GangStarted", 3)) > max(kinds.index(("GangEnded", g)) for g in (1, 2))
    devices = {e.gang: e.devices for e in events if isinstance(e, GangStarted)}
    assert devices == {1: [0], 2: [1], 3: [0, 1]}
    assert {r.verdict for r in results(events).values()} == {Verdict.PASSED}


def test_on_four_devices_two_gangs_of_two_ranks_run_at_once(tmp_path):
    events = events_of(plan(*(case("slow", world=2, m=m) for m in (1, 2))), tmp_path, devices=4)
    kinds = [type(e).__name__ for e in events if not isinstance(e, GangStarted)]
    assert kinds[:2] == ["CaseStarted"] * 2
    started = [e.devices for e in events if isinstance(e, GangStarted)]
    assert sorted(started) == [[0, 1], [2, 3]]


def breaks_on(devices, monkeypatch, tmp_path, *, together=False):
    """Let the ranks of gangs on these devices fail at their start."""
    (tmp_path / "broken_device.py").write_text("raise RuntimeError('no such device')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def gang(pool, spec):
        used = set(spec.devices)
        is_hit = devices == used if together else bool(devices & used)
        if is_hit:
            spec = dataclasses.replace(spec, executor="broken_device:run_case")
        return real(pool, spec)

    real = scheduler.Gang
    monkeypatch.setattr(scheduler, "Gang", gang)


def test_a_device_on_which_no_gang_starts_is_used_no_more(tmp_path, monkeypatch):
    breaks_on({0}, monkeypatch, tmp_path)
    cases = [case("none", world=1, m=m) for m in range(1, 6)]
    events = events_of(plan(*cases), tmp_path, devices=2)
    assert [r.verdict for r in results(events).values()] == [Verdict.PASSED] * 5
    assert {tuple(e.devices) for e in events if isinstance(e, GangStarted)} == {(1,)}
    why = [e.reason for e in events if isinstance(e, GangEnded)]
    assert sum("before the gang was ready" in reason for reason in why) == 2
    assert sum(reason.endswith("; no further gang uses device 0") for reason in why) == 1


def test_no_gang_is_started_on_a_retired_device(tmp_path, monkeypatch):
    """Not even by a job whose gang still runs there when the device is retired, and then dies."""
    log = []  # the devices of each gang that is started, and all events, in order

    def gang(pool, spec):
        log.append(spec.devices)
        is_broken = spec.devices == (0,) and log.count((0,)) > 1
        return real(pool, dataclasses.replace(spec, executor=broken) if is_broken else spec)

    real, broken = scheduler.Gang, "broken_device:run_case"
    (tmp_path / "broken_device.py").write_text("raise RuntimeError('no such device')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(scheduler, "Gang", gang)
    lasting = case("exit_once_released", world=1)
    jobs = [[lasting], *([case("slow", world=1, m=m)] for m in range(1, 7))]
    options = RunOptions(
        executor=EXECUTOR,
        log_dir=tmp_path / "logs",
        slots=2,
        devices=2,
        retries=1,
        rank_options={"folder": str(tmp_path)},
    )
    retired = None
    for event in run(plan(jobs=jobs), options, shared_pool()):
        log.append(event)
        is_end = isinstance(event, GangEnded) and "no further gang uses device 0" in event.reason
        if is_end and retired is None:
            retired = len(log)
            (tmp_path / "released").touch()
    assert retired is not None
    later = [entry for entry in log[retired:] if isinstance(entry, tuple)]
    assert later, "gangs are started after that"
    assert set(later) == {(1,)}
    found = results([entry for entry in log if not isinstance(entry, tuple)])
    assert found.pop(lasting.id).verdict is Verdict.FLAKY
    assert {result.verdict for result in found.values()} == {Verdict.PASSED}


@pytest.fixture
def unkillable(monkeypatch):
    """Let sweeps of gangs whose ranks hang report the process of rank 0 as still alive.

    It is simulated: a process that SIGKILL does not end needs a call that never returns from the
    kernel, as of a driver that hangs.
    """
    real = Link._from_holder

    def from_holder(link, message):
        if isinstance(message, Swept) and link.replies.last_status[0][0] == "asleep in the fault":
            message = dataclasses.replace(message, survivors=link.rank_pids[:1])
        real(link, message)

    monkeypatch.setattr(Link, "_from_holder", from_holder)


def test_the_device_of_a_rank_that_cannot_be_killed_is_used_no_more(tmp_path, unkillable):
    """The case is hung, the gang is given up, and the other device runs what is left.

    A gang runs on each of the two devices, and the first that is free takes the case that hangs.
    """
    cases = [case("ignore_sigterm", world=1, m=64), *(case("none", world=1, m=m) for m in (2, 3))]
    jobs = [cases, [case("none", world=2, m=4)]]
    events = events_of(plan(jobs=jobs, limit=2.0), tmp_path, devices=2)
    ended = results(events)
    assert [str(ended[c.id].verdict) for c in cases] == ["hung", "passed", "passed"]
    (hung,) = [e.gang for e in events if isinstance(e, CaseEnded) and e.result.verdict == "hung"]
    (why,) = [e for e in events if isinstance(e, GangEnded) and e.gang == hung]
    (retired,) = next(e.devices for e in events if isinstance(e, GangStarted) and e.gang == hung)
    assert re.search(
        rf"; cannot be killed: processes \[\d+\]; no further gang uses device {retired}$",
        why.reason,
    )
    later = events[events.index(why) :]
    assert not [e for e in later if isinstance(e, GangStarted) and retired in e.devices]
    wide = ended[jobs[1][0].id]
    assert (wide.verdict, wide.reason) == (Verdict.INFRA, "gang_start")
    told = f"too few are left on which gangs can start\ndevice {retired}: hung: "
    assert told in wide.messages[0]


def test_a_pair_of_devices_on_which_no_gang_starts_loses_no_case(tmp_path, monkeypatch):
    """Both devices may work, and only the link between them does not."""
    breaks_on({0, 1}, monkeypatch, tmp_path, together=True)
    cases = [case("none", world=2, m=m) for m in range(1, 13)]
    events = events_of(plan(*cases), tmp_path, devices=4)
    assert [result.verdict for result in results(events).values()] == [Verdict.PASSED] * 12
    assert (0, 1) not in {tuple(e.devices) for e in events if isinstance(e, GangStarted)}
    why = [e.reason for e in events if isinstance(e, GangEnded)]
    moved = ("; its cases wait for devices other than 0, 1", "; no further gang uses device")
    assert sum(any(words in reason for words in moved) for reason in why) == 1


def test_a_job_that_starts_on_no_devices_is_infra_after_all_were_tried(tmp_path, monkeypatch):
    breaks_on({0, 1, 2, 3}, monkeypatch, tmp_path)
    cases = [case("none", world=2, m=m) for m in (1, 2)]
    events = events_of(plan(*cases), tmp_path, devices=4)
    found = results(events)
    assert [result.verdict for result in found.values()] == [Verdict.INFRA] * 2
    told = [result.messages[0] for result in found.values()]
    # A device is retired alone if only one of its gang's ranks has ended when the engine looks:
    # then too few are left, and the text tells of the devices that were lost.
    assert all("no such device" in text for text in told), told


def test_without_a_device_left_cases_are_infra(tmp_path, monkeypatch):
    breaks_on({0, 1}, monkeypatch, tmp_path)
    cases = [case("none", world=1, m=m) for m in (1, 2)]
    jobs = [cases, [case("none", world=2, m=3)]]
    found = results(events_of(plan(jobs=jobs), tmp_path, devices=2))
    assert [r.verdict for r in found.values()] == [Verdict.INFRA] * 3
    assert "2 gangs could not start" in found[cases[1].id].messages[0]
    message = found[jobs[1][0].id].messages[0]
    assert "of 2 devices too few are left on which gangs can start\ndevice " in message
    assert "no such device" in message


def test_fail_fast_ends_all_gangs_of_a_job(tmp_path):
    """The other gang's cases never end by themselves: none is faster than the failure."""
    others = [case("ignore_sigterm", world=1, m=m) for m in (3, 2, 1)]
    cases = [case("fail", world=1, m=4096), *others]  # the longest ones first
    found = results(events_of(plan(*cases), tmp_path, slots=2, fail_fast=True))
    assert sorted(found) == sorted(c.id for c in cases)
    assert found[cases[0].id].verdict is Verdict.FAILED
    assert {found[other.id].reason for other in others} == {"fail_fast"}


def test_ranks_that_run_at_once_share_the_cores(tmp_path, monkeypatch):
    cases = [case("threads", world=1, m=m) for m in range(1, BATCH + 2)]
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
    for slots, threads in ((1, cores), (2, max(1, cores // 2))):
        folder = tmp_path / str(slots)
        folder.mkdir()
        results(events_of(plan(*cases), folder, slots=slots))
        written = [path.read_text() for path in folder.glob("threads-*")]
        assert written == [str(threads)] * slots


def test_one_slot_means_one_gang_at_a_time(tmp_path):
    jobs = [[case("none", world=1, m=m)] for m in (1, 2)]
    kinds = [(type(e).__name__, e.gang) for e in events_of(plan(jobs=jobs), tmp_path)]
    assert kinds.index(("GangStarted", 2)) > kinds.index(("GangEnded", 1))


def test_a_gang_that_cannot_start_is_infra_after_two_tries(tmp_path, monkeypatch):
    (tmp_path / "engine_broken.py").write_text("raise RuntimeError('broken at import')\n")
    monkeypatch.syspath_prepend(tmp_path)
    cases = [case("none", m=1), case("none", m=2)]
    (tmp_path / "engine_broken.py").write_text("raise RuntimeError('broken at import')\n")

    events = events_of(plan(*cases), tmp_path, executor="engine_broken:run_case")
    found = results(events)
    assert [r.verdict for r in found.values()] == [Verdict.INFRA] * 2
    assert {r.reason for r in found.values()} == {"gang_start"}
    message = found[cases[0].id].messages[0]
    assert "2 gangs could not start" in message
    assert "RuntimeError: broken at import" in message
    assert len([e for e in events if isinstance(e, GangEnded)]) == 2
    assert not [e for e in events if isinstance(e, GangStarted)]


def test_a_rank_that_ends_between_cases_is_not_the_next_ones_fault(tmp_path):
    cases = [case("late_exit"), case("none", m=1), case("none", m=2)]
    options = RunOptions(log_dir=tmp_path, executor=EXECUTOR)
    events = []
    for event in run(plan(*cases), options):
        events.append(event)
        if isinstance(event, CaseEnded) and event.result.case_id == cases[0].id:
            time.sleep(0.5)  # the rank ends now, and nobody looks
    assert [r.verdict for r in results(events).values()] == [Verdict.PASSED] * 3
    why = [e.reason for e in events if isinstance(e, GangEnded)]
    assert "rank 1 ended by itself with exit code 9" in why[0]


def test_closing_the_iterator_ends_every_process(tmp_path):
    others = set(process_tree.descendants(os.getpid()))
    events = run(plan(case("slow")), RunOptions(log_dir=tmp_path, executor=EXECUTOR))
    assert isinstance(next(events), GangStarted)
    assert len(set(process_tree.descendants(os.getpid())) - others) == 5
    events.close()
    assert set(process_tree.descendants(os.getpid())) <= others


def test_closing_the_iterator_ends_its_gangs_in_a_pool_that_goes_on(tmp_path):
    pool = shared_pool()
    options = RunOptions(log_dir=tmp_path, executor=EXECUTOR)
    events = run(plan(case("ignore_sigterm"), limit=60), options, pool)
    assert isinstance(next(events), GangStarted)
    gang_pids = set(process_tree.descendants(pool.guardian.pid)) - servers_of(pool)
    assert len(gang_pids) == 3
    events.close()
    assert wait_for(lambda: not gang_pids & set(process_tree.descendants(os.getpid())), 5.0)
    assert pool.guardian.poll() is None


def test_a_log_folder_that_cannot_be_written_fails_no_run(tmp_path):
    (tmp_path / "logs").write_text("in the way")
    (result,) = results(events_of(plan(case("fail")), tmp_path)).values()
    assert result.verdict is Verdict.FAILED
    assert result.log is None
    assert "its log could not be written" in result.messages[-1]
