"""`--repeat`: a case that fails now and then has one result, which counts all repetitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.record.events import CaseEnded, CaseStarted
from harness.record.repeats import Repeats
from harness.record.result import CaseResult, Verdict
from tests.harness.console import summary, the_folder
from tests.harness.fake_engine import BASE

P, F, C, N = Verdict.PASSED, Verdict.FAILED, Verdict.CRASHED, Verdict.NOT_RUN


def ended(verdict, reason=None):
    messages = () if verdict is P else (f"rank 0: {verdict}",)
    result = CaseResult(
        case_id=BASE, verdict=verdict, reason=reason, seconds=0.5, messages=messages
    )
    return CaseEnded(time=1.0, gang=1, result=result)


def test_the_last_bad_result_counts_all_repetitions():
    repeats = Repeats(6)
    started = CaseStarted(time=1.0, case_id=BASE, gang=1)
    events = list(repeats.folded([started, *map(ended, [P, F, P, C, P, P])]))
    assert events[0] == started
    (last,) = events[1:]
    line = "failed 2 of 6 (1 failed, 1 crashed), repetition 2, 4"
    assert repeats.line() == line
    assert last.result.verdict is C
    assert last.result.messages == (line, "rank 0: crashed")
    assert last.result.leading == (0,)
    assert last.result.seconds == 3.0


def test_what_did_not_run_or_runs_again_is_no_repetition():
    repeats = Repeats(4)
    events = [ended(P), ended(F), ended(N, "suspect"), ended(P), ended(P), ended(P)]
    (last,) = repeats.folded(events)
    assert last.result.verdict is P
    assert repeats.line() == "passed 4 of 4"
    repeats = Repeats(4)
    (last,) = repeats.folded([ended(P), ended(F), ended(N, "fail_fast"), ended(N, "fail_fast")])
    assert last.result.verdict is F
    assert repeats.line() == "failed 1 of 2 (1 failed), repetition 2; 2 did not run"


def test_run_says_how_often_a_case_failed(engine, capsys):
    results = iter([P, F, P, F, P])
    engine.verdict_of = lambda case: next(results)
    assert cli.main(["run", "--case", BASE, "--repeat", "5"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "failed 2 of 5 (2 failed), repetition 2, 4" in out
    assert summary(1, failed=1).match(out[-1])
    assert list(the_folder().info.cases) == [BASE]
    first = engine.calls[0][0].cases[0]
    assert [list(plan.cases) for plan, _ in engine.calls] == [[first] * 5]
    engine.verdict_of = lambda case: P
    assert (
        cli.main(["run", "--suite", "smoke", "-k", "tp:2-seed and not fp8", "--repeat", "3"]) == 0
    )
    assert "passed 3 of 3" in capsys.readouterr().out.splitlines()
    assert engine.calls[-1][1].retries == 0  # the suite has one, which would hide a failure


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "smoke", "--repeat", "2"], "--repeat runs one case, not 8; name it"),
        (["--case", BASE, "--repeat", "2", "--retries", "1"], "leave out --resume and --retries"),
        (["--case", BASE, "--repeat", "1000001"], "at most 1,000,000, not 1,000,001"),
        (["--case", BASE, "--repeat", "0"], "give a whole number of at least 1, not '0'"),
    ],
)
def test_wrong_use_is_one_clear_line(engine, capsys, options, message):
    assert cli.main(["run", *options]) == 3
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()
