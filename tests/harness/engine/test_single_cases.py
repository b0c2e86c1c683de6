"""Cases one by one on warm gangs: one result each, with the verdicts of a whole run."""

from __future__ import annotations

import time

import pytest

from harness.engine.run_options import RunOptions
from harness.engine.single_cases import SingleCases
from harness.engine.warm_gangs import WarmGangs
from harness.record.result import Verdict
from tests.harness.engine.engine_faults import case
from tests.harness.engine.engine_tools import EXECUTOR, plan, shared_pool


@pytest.fixture
def gangs():
    kept = WarmGangs(shared_pool, keep=2)
    yield kept
    kept.close()


@pytest.fixture
def run(gangs, tmp_path):
    """A function that runs the case of a fault, with these options."""

    def run_fault(fault, limit=30.0, **options):
        given = {"executor": EXECUTOR, "rank_options": {"folder": str(tmp_path)}, **options}
        cases = SingleCases(gangs, RunOptions(log_dir=tmp_path / "logs", **given))
        subject = case(fault)
        (job,) = plan(subject, limit=limit).jobs
        return cases.run(job, subject)

    return run_fault


def pids(gangs):
    return [tuple(warm.gang.link.rank_pids) for warm in gangs._gangs]


def test_cases_that_pass_share_their_ranks(run, gangs):
    assert run("none").verdict is Verdict.PASSED
    before = pids(gangs)
    assert run("matmul").verdict is Verdict.PASSED
    assert pids(gangs) == before


@pytest.mark.parametrize(
    ("fault", "verdict", "words"),
    [
        ("fail", Verdict.FAILED, ""),
        ("raise_on_one", Verdict.ERROR, "the fault of rank 1"),
        ("exit_zero", Verdict.CRASHED, "exit code 0"),
        ("sigkill", Verdict.CRASHED, "SIGKILL"),
        ("vacuous", Verdict.VACUOUS, ""),
        ("kill_holder", Verdict.INFRA, ""),
    ],
)
def test_each_fault_costs_its_own_case_alone(run, tmp_path, fault, verdict, words):
    result = run(fault)
    assert result.verdict is verdict
    assert words in "\n".join(result.messages)
    assert (tmp_path / "logs" / result.log).read_text()
    assert run("none").verdict is Verdict.PASSED


def test_a_case_over_its_limit_hangs_with_its_stack(run):
    result = run("spin", limit=0.5)
    assert result.verdict is Verdict.HUNG
    assert "in _spin" in "\n".join(result.messages)


def test_a_pass_in_fresh_ranks_after_a_failure_is_flaky(run):
    result = run("flaky", retries=1)
    assert (result.verdict, result.attempt) == (Verdict.FLAKY, 2)
    assert any("the first time" in message for message in result.messages)


def test_without_retries_the_first_failure_counts(run):
    assert run("flaky").verdict is Verdict.ERROR


def test_a_retry_never_gets_ranks_that_ran_the_failed_attempt(run, gangs):
    run("none")
    before = pids(gangs)
    assert run("raise_all", retries=1).verdict is Verdict.ERROR
    assert pids(gangs) != before


def test_ranks_that_cannot_start_are_the_machines_fault(run):
    result = run("none", executor="no_such_module:run")
    assert (result.verdict, result.reason) == (Verdict.INFRA, "gang_start")
    assert "no_such_module" in result.messages[0]


def test_a_rank_that_ends_between_cases_does_not_cost_the_next_one(run):
    assert run("late_exit").verdict is Verdict.PASSED
    time.sleep(0.3)  # it ends .1 s later
    assert run("slow").verdict is Verdict.PASSED


def test_after_each_case_all_cached_tensors_are_summed(run, gangs, monkeypatch):
    sums = []
    task = gangs.run

    def watched(*arguments, sum_all):
        sums.append(sum_all)
        return task(*arguments, sum_all=sum_all)

    monkeypatch.setattr(gangs, "run", watched)
    assert [run(fault).verdict for fault in ("none", "matmul")] == [Verdict.PASSED] * 2
    assert sums == [True, True]


def test_gangs_get_the_callers_devices_and_share_its_cores(gangs, tmp_path):
    options = RunOptions(log_dir=tmp_path, slots=2)
    (job,) = plan(case("none")).jobs
    job.device = "cuda"
    mine = SingleCases(gangs, options, devices=(4, 6), sharers=3).spec(job)
    assert (mine.world_size, mine.devices) == (2, (4, 6))
    assert mine.ranks_at_once == 6
