"""A case whose inputs could not have shown a mistake is judged with the next seed, and says so."""

from __future__ import annotations

from collections import deque

import pytest

from harness.engine.job_run import JobRun
from harness.engine.messages import Done
from harness.engine.other_seeds import Tries
from harness.engine.run_options import RunOptions
from harness.engine.single_cases import SingleCases
from harness.engine.task_outcome import Ended, Outcome
from harness.engine.warm_gangs import WarmGangs
from harness.record.events import CaseStarted, GangEnded
from harness.record.result import CaseResult, Verdict
from tests.harness.engine.engine_faults import case
from tests.harness.engine.engine_tools import EXECUTOR, events_of, plan, results, shared_pool

PLANNED = case("none")


def vacuous(text, planned=PLANNED):
    return CaseResult(
        case_id=planned.id, verdict=Verdict.VACUOUS, seconds=1.0, messages=(f"{text} would pass",)
    )


def outcome(poisoned=False):
    answers = {
        0: Done(passed=False, result={}),
        1: Done(passed=False, result={}, poisoned=poisoned),
    }
    return Outcome(
        task=PLANNED.id,
        ended=Ended.ANSWERED,
        seconds=1.0,
        answers=answers,
        exits={},
        last_status={},
        stacks={},
        logs={},
    )


def by_scheduler(folder, planned, **options):
    (result,) = results(events_of(plan(planned), folder, **options)).values()
    return result


def one_by_one(folder, planned, **options):
    gangs = WarmGangs(shared_pool, keep=1)
    given = {"executor": EXECUTOR, "rank_options": {"folder": str(folder)}, **options}
    (job,) = plan(planned).jobs
    try:
        return SingleCases(gangs, RunOptions(log_dir=folder / "logs", **given)).run(job, planned)
    finally:
        gangs.close()


ENGINES = pytest.mark.parametrize("run", [by_scheduler, one_by_one])


@ENGINES
def test_the_first_seed_that_shows_something_is_judged(run, tmp_path):
    planned = case("vacuous_then_right")
    result = run(tmp_path, planned, other_seeds=2)
    assert (result.case_id, result.verdict) == (planned.id, Verdict.PASSED)
    assert result.seed == planned.seed + 1
    assert result.judged_id == planned.replace(seed=planned.seed + 1).id
    assert result.log is None


@ENGINES
def test_what_fails_with_another_seed_has_failed(run, tmp_path):
    planned = case("vacuous_then_wrong")
    result = run(tmp_path, planned, other_seeds=2)
    assert (result.case_id, result.verdict) == (planned.id, Verdict.FAILED)
    assert result.judged_case == case("wrong")
    assert result.messages[-1].startswith(f"with seed {planned.seed} the case was vacuous")
    log = (tmp_path / "logs" / result.log).read_text()
    assert f"repeat: python -m harness run --case {case('wrong').id}" in log


@ENGINES
def test_no_more_seeds_are_tried_than_the_options_allow(run, tmp_path):
    planned = case("vacuous_twice")  # the third seed would be right in its second gang only
    result = run(tmp_path, planned, other_seeds=1)
    assert (result.case_id, result.verdict, result.seed) == (planned.id, Verdict.VACUOUS, None)
    text = f"nor would inputs of seed {planned.seed + 1} show every mistake"
    assert result.messages == (text,)
    assert (tmp_path / "logs" / result.log).is_file()
    alone = run(tmp_path, case("vacuous_then_right"))
    assert (alone.verdict, alone.messages) == (Verdict.VACUOUS, ())


@ENGINES
def test_a_retry_is_of_the_seed_that_failed(run, tmp_path):
    planned = case("vacuous_then_flaky")
    result = run(tmp_path, planned, other_seeds=2, retries=1)
    assert (result.case_id, result.verdict, result.attempt) == (planned.id, Verdict.FLAKY, 2)
    assert result.seed == planned.seed + 1


def test_the_next_case_begins_with_its_own_seed(tmp_path):
    cases = [case("vacuous_then_right", m=1), case("vacuous_then_right", m=2), case("none")]
    events = events_of(plan(*cases), tmp_path, other_seeds=2)
    judged = results(events)
    assert [judged[c.id].seed for c in cases] == [c.seed + 1 for c in cases[:2]] + [None]
    starts = [event.case_id for event in events if isinstance(event, CaseStarted)]
    assert starts == [cases[0].id] * 2 + [cases[1].id] * 2 + [cases[2].id]
    assert [event.cases for event in events if isinstance(event, GangEnded)] == [3]


def test_a_case_that_runs_again_because_of_another_one_begins_with_its_own_seed():
    job = JobRun(job=None, spec=None, need=None, queue=deque([case("right")]), backlog=deque())
    job.suspects.ended.append(PLANNED)
    job.tries = Tries(further=2, vacuous=[vacuous("a", case("right"))])
    assert [result.case_id for result in job.put_back()] == [PLANNED.id]
    assert job.tries.case(job.queue[0]) == PLANNED


def test_an_altered_process_is_not_mended_by_a_seed():
    tries = Tries(further=2)
    assert not tries.goes_on(outcome(poisoned=True), vacuous("a"))
    assert tries.goes_on(outcome(), vacuous("a"))


@pytest.mark.parametrize("verdict", [Verdict.PASSED, Verdict.FAILED, Verdict.CRASHED])
def test_only_what_shows_nothing_is_tried_again(verdict):
    result = CaseResult(case_id=PLANNED.id, verdict=verdict)
    tries = Tries(further=2)
    assert not tries.goes_on(outcome(), result)
    assert tries.judged(PLANNED, result) == result


def test_a_result_says_what_each_seed_before_it_would_have_let_pass():
    tries = Tries(further=2)
    for seed, text in enumerate(("a", "b")):
        assert tries.case(PLANNED) == PLANNED.replace(seed=seed)
        assert tries.goes_on(outcome(), vacuous(text))
    last = PLANNED.replace(seed=2)
    assert tries.case(PLANNED) == last
    passed = CaseResult(case_id=last.id, verdict=Verdict.PASSED, seconds=2.5)
    result = tries.judged(PLANNED, passed)
    assert (result.case_id, result.seed, result.seconds) == (PLANNED.id, 2, 4.5)
    assert result.messages == (
        "with seed 0 the case was vacuous: a would pass",
        "with seed 1 the case was vacuous: b would pass",
    )


def test_if_no_seed_shows_anything_the_result_is_that_of_its_own():
    tries = Tries(further=2)
    assert all(tries.goes_on(outcome(), vacuous(text)) for text in "ab")
    assert not tries.goes_on(outcome(), vacuous("c"))
    result = tries.judged(PLANNED, vacuous("c", PLANNED.replace(seed=2)))
    assert (result.case_id, result.seed, result.seconds) == (PLANNED.id, None, 3.0)
    assert result.messages == (
        "a would pass",
        "nor would inputs of seed 1-2 show every mistake",
    )
