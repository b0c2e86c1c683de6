"""The summary of a run: counts that add up, the line, and the exit code that follows."""

import pytest

from harness.record.result import CaseResult, Verdict
from harness.record.summary import Summary, repeat_command, summarize


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["passed", "passed"], 0),
        (["passed", "failed"], 1),
        (["passed", "error"], 1),
        (["passed", "crashed"], 1),
        (["passed", "hung"], 1),
        (["passed", "vacuous"], 1),
        (["passed", "flaky"], 1),
        (["failed", "infra", "not_run"], 1),
        (["passed", "infra", "not_run"], 75),
        (["passed", "not_run"], 2),
        (["passed", None], 2),
        ([], 4),
    ],
)
def test_the_worst_verdict_decides_the_exit_code(verdicts, code):
    ids = [str(i) for i in range(len(verdicts))]
    results = {
        i: CaseResult(case_id=i, verdict=Verdict(v))
        for i, v in zip(ids, verdicts, strict=True)
        if v
    }
    assert summarize(ids, 3, results, 1.0).exit_code() == code


def test_a_case_that_is_named_and_refused_is_no_pass():
    """A suite's refusals are expected; a case that somebody named was asked for."""
    results = {"a": CaseResult(case_id="a", verdict=Verdict.PASSED)}
    assert summarize(["a"], 1, results, 1.0).exit_code() == 0
    assert summarize(["a"], 0, results, 1.0, by_id=True).exit_code() == 0
    assert summarize(["a"], 1, results, 1.0, by_id=True).exit_code() == 4
    results["a"] = CaseResult(case_id="a", verdict=Verdict.FAILED)
    assert summarize(["a"], 1, results, 1.0, by_id=True).exit_code() == 1


def test_counts_add_up_to_the_cases():
    counts = {verdict: i + 1 for i, verdict in enumerate(Verdict)}
    total = sum(counts.values())
    summary = Summary(counts=counts, seconds=1.25, cases=total)
    pairs = dict(pair.split("=") for pair in summary.line().split())
    assert pairs.pop("seconds") == "1.2"
    assert int(pairs.pop("cases")) == sum(int(count) for count in pairs.values())
    names = "passed failed error crashed hung skipped vacuous flaky not_run known"
    assert " ".join(pairs) == names
    stored = summary.to_json()
    assert stored["infra"] == counts[Verdict.INFRA]
    assert stored["not_run"] == counts[Verdict.NOT_RUN]


def test_cases_that_a_time_budget_left_out_are_counted_apart_and_change_no_code():
    results = {"a": CaseResult(case_id="a", verdict=Verdict.PASSED)}
    summary = summarize(["a"], 1, results, 1.0, left_out=7)
    assert (summary.cases, summary.exit_code()) == (2, 0)
    assert summary.line().endswith(" not_run=0 left_out=7 seconds=1.0")
    assert summary.to_json()["left_out"] == 7
    assert "left_out" not in summarize(["a"], 1, results, 1.0).to_json()


def test_a_case_is_repeated_by_its_id_and_a_recorded_one_with_its_data_set():
    assert repeat_command("m:1-n:2") == "python -m harness run --case m:1-n:2"
    assert repeat_command("m:1-trace:ab").endswith(" --case m:1-trace:ab --trace PATH")
