"""Cached weights that a case changes without using them: who did it, in real gangs."""

from __future__ import annotations

from collections import deque

import pytest

from harness.engine.suspects import Suspects
from harness.record.events import CaseEnded, GangEnded
from harness.record.result import Verdict
from harness.record.run_folder import last_results
from tests.harness.engine.engine_tools import events_of, plan
from tests.harness.fixtures.test_case_watch import EXECUTOR, a_case

BEFORE = a_case("Good")
CHANGED = "the layer changed what later cases use, too: the cached weights of expert "


def run(folder, *cases):
    """The last result of each case in order, all verdicts, and how the gangs ended."""
    events = events_of(plan(*cases), folder, executor=EXECUTOR)
    results = last_results(events)
    verdicts = [str(event.result.verdict) for event in events if isinstance(event, CaseEnded)]
    ends = [event.why for event in events if isinstance(event, GangEnded)]
    return [results[case.id] for case in cases], verdicts, ends


def test_a_change_that_shows_at_the_gang_s_end_is_the_guilty_case_s_finding(tmp_path):
    guilty = a_case("WeightsOfOthers", seed=1)
    (before, result), verdicts, ends = run(tmp_path, BEFORE, guilty)
    assert before.verdict is Verdict.PASSED
    assert result.verdict is Verdict.FAILED
    assert CHANGED in result.messages[0]
    assert verdicts == ["passed", "passed", "not_run", "not_run", "passed", "failed"]
    assert ends[0].startswith("unfit at its end: rank 0: state: ")
    assert ends[1].startswith("the case altered its ranks' processes: ")
    assert len(ends) == 2


def test_a_change_in_a_call_of_a_check_is_not_the_next_case_s(tmp_path):
    guilty, after = a_case("WeightsOfOthersWhenJudged", seed=1), a_case("Good", num_experts=8)
    results, verdicts, _ = run(tmp_path, BEFORE, guilty, after)
    assert [r.verdict for r in results] == [Verdict.PASSED, Verdict.FAILED, Verdict.PASSED]
    assert CHANGED in results[1].messages[0]
    assert verdicts[2:] == ["not_run", "not_run", "passed", "failed", "passed"]


def test_the_case_that_meets_another_ones_change_is_not_accused(tmp_path):
    guilty, after = a_case("WeightsOfOthers", seed=1), a_case("Good", num_experts=8)
    results, verdicts, ends = run(tmp_path, BEFORE, guilty, after)
    assert [r.verdict for r in results] == [Verdict.PASSED, Verdict.FAILED, Verdict.PASSED]
    assert CHANGED in results[1].messages[0]
    assert results[2].messages == ()
    again = ["passed", "failed", "passed"]
    assert verdicts == ["passed", "passed", "not_run", "not_run", *again]
    assert ends[0].startswith("the case or an earlier one altered its ranks' processes: ")
    assert len(ends) == 3


def test_a_case_that_raises_after_its_change_is_found_out_too(tmp_path):
    guilty = a_case("WeightsOfOthersThenRaises", seed=1)
    (before, result), _, _ = run(tmp_path, BEFORE, guilty)
    assert before.verdict is Verdict.PASSED
    assert result.verdict is Verdict.FAILED
    assert CHANGED in result.messages[0]
    assert result.messages[1].startswith("rank 0: after this a call raised ValueError: no second")


def test_what_does_not_happen_again_runs_no_third_time(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAKY_ONCE", str(tmp_path / "once"))
    results, verdicts, ends = run(tmp_path, BEFORE, a_case("WeightsOfOthersOnce", seed=1))
    assert [r.verdict for r in results] == [Verdict.PASSED, Verdict.PASSED]
    assert verdicts == ["passed", "passed", "not_run", "not_run", "passed", "passed"]
    assert ends[1:] == ["done"]


@pytest.mark.parametrize("unjudged", [0, 1])
def test_cases_are_put_back_in_their_order_and_once(unjudged):
    cases = [a_case("Good", seed=seed) for seed in range(4)]
    suspects = Suspects(ended=cases[:2])
    queue = deque(cases[2:])
    assert [r.case_id for r in suspects.put_back(queue)] == [case.id for case in cases[:2]]
    assert list(queue) == cases
    suspects.ended = cases[: 2 + unjudged]
    queue = deque(cases[2 + unjudged :])
    assert suspects.put_back(queue) == []
    assert list(queue) == cases[2 + unjudged :]
