"""Progress: plain lines in a file, a live bar on a terminal."""

import dataclasses
import io
import time

from harness.record.events import (
    CaseEnded,
    CaseStarted,
)
from harness.record.result import CaseResult, Verdict
from harness.report import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_live_bar_and_only_what_did_not_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    live = progress.make(2, tmp_path, verbose=False, stream=out)
    assert isinstance(live, progress.Live)
    for case, verdict in (("good-[1]", Verdict.PASSED), ("bad-[2]", Verdict.FAILED)):
        live.show(CaseStarted(time=time.time(), case_id=case, gang=1))
        result = CaseResult(case_id=case, verdict=verdict, messages=("[red] as said",))
        live.show(CaseEnded(time=time.time(), gang=1, result=result))
    live.close()
    text = out.getvalue()
    assert "failed      0.00s  bad-[2]" in text
    assert "[red] as said" in text
    assert "passed      0.00s" not in text
    assert "passed=1 failed=1" in text
    assert "2/2" in text


def test_a_terminal_shows_no_case_that_did_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    live = progress.make(1, tmp_path, verbose=True, stream=out)
    result = CaseResult(case_id="left-out", verdict=Verdict.NOT_RUN, reason="fail_fast")
    live.show(CaseEnded(time=time.time(), gang=1, result=result))
    live.close()
    assert "left-out" not in out.getvalue()
    assert "not_run=1" in out.getvalue()


def test_a_file_gets_plain_lines(tmp_path):
    out = io.StringIO()
    assert isinstance(progress.make(1, tmp_path, verbose=False, stream=out), progress.Plain)


def test_long_messages_are_cut_on_the_console(tmp_path):
    result = CaseResult(
        case_id="a",
        verdict=Verdict.ERROR,
        messages=("\n".join(map(str, range(80))),),
        reason="code",
        log="a.log",
        attempt=2,
    )
    lines = progress.case_lines(result, tmp_path)
    assert len(lines) == 1 + 60
    assert lines[0] == "error       0.00s  a  (attempt 2)"
    assert lines[1].strip() == "reason: code"
    assert "… 24 more lines: -v" in "\n".join(lines)
    assert lines[-3].strip() == "79"
    assert lines[-2].strip() == f"log: {tmp_path / 'logs/a.log'}"
    assert lines[-1].strip() == "repeat: python -m harness run --case a"
    whole = progress.case_lines(result, tmp_path, verbose=True)
    assert [line.strip() for line in whole[2:-2]] == [str(i) for i in range(80)]


def test_buildkites_log_has_passed_cases_folded_and_each_failure_open(tmp_path, monkeypatch):
    monkeypatch.setenv("BUILDKITE", "true")
    out = io.StringIO()
    show = progress.make(5, tmp_path, verbose=False, stream=out)
    verdicts = (Verdict.PASSED, Verdict.PASSED, Verdict.FAILED, Verdict.KNOWN, Verdict.NOT_RUN)
    for number, verdict in enumerate(verdicts):
        result = CaseResult(case_id=f"m:{number}", verdict=verdict)
        show.show(CaseEnded(time=0.0, gang=1, result=result))
    heads = [line for line in out.getvalue().splitlines() if line.startswith(("---", "+++"))]
    assert heads == ["--- cases from 1 of 5", "+++ failed m:2", "--- cases from 4 of 5"]


def test_the_seed_that_was_judged_is_shown(tmp_path):
    case_id = "m:1-n:1-k:1-e:1-topk:1-experts:a"
    result = CaseResult(case_id=case_id, verdict=Verdict.PASSED, seed=1)
    assert progress.case_lines(result, tmp_path) == [
        f"passed      0.00s  {case_id}  (judged with seed 1)"
    ]
    failed = progress.case_lines(dataclasses.replace(result, verdict=Verdict.FLAKY), tmp_path)
    assert (
        failed[-2].strip()
        == f"how often: python -m harness run --case {case_id}-seed:1 --repeat 50"
    )
    assert failed[-1].strip() == f"repeat: python -m harness run --case {case_id}-seed:1"
