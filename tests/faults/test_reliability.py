"""The comparison of runners: what is read from their reports, and one real run of each kind."""

from __future__ import annotations

import pytest

from benchmarks import reliability
from benchmarks.reliability import FAULTS, Limits, Line, _cases, control, measure

JUNIT = """<testsuites><testsuite>
<testcase name="test_fault">{fault}</testcase>
<testcase name="test_healthy"/>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("fault", "word"), [("", "passed"), ("<failure/>", "failed"), ("<error/>", "failed")]
)
def test_the_words_of_a_junit_file(tmp_path, fault, word):
    (tmp_path / "report").write_text(JUNIT.format(fault=fault))
    assert _cases("spawn", tmp_path / "report") == (word, "passed")


def test_a_runner_without_a_report_named_nothing(tmp_path):
    assert _cases("spawn", tmp_path / "report") == ("", "")


def test_a_pass_is_wrong_unless_only_what_is_left_counts():
    line = Line(case="passed", healthy="passed", left=2, seconds=3.2, ended=True)
    assert line.text(may_pass=False) == "passed (wrong), next passed, 2 left, 3 s"
    assert line.text(may_pass=True) == "passed, next passed, 2 left, 3 s"
    line = Line(case="", healthy="", left=1, seconds=30.1, ended=False, limit=30)
    assert line.text(may_pass=False) == "not named, next lost, 1 left, killed after 30 s"


def test_limits_follow_what_a_run_without_a_fault_takes():
    assert Limits.after(2.0) == Limits(run=30, test=15)
    slow = Limits.after(40.0)
    assert slow == Limits(run=100.0, test=48), "a test over its limit, then a healthy one"


@pytest.mark.parametrize(
    ("case", "ended"), [("failed", True), ("", False), ("passed", True)], ids=str
)
def test_a_runner_whose_healthy_cases_fail_is_not_compared(monkeypatch, case, ended):
    healthy = "passed" if ended else ""
    line = Line(case=case, healthy=healthy, left=0, seconds=9.0, ended=ended)
    monkeypatch.setattr(reliability, "measure", lambda *_: line)
    if case == "passed":
        assert control("spawn") is line
    else:
        with pytest.raises(SystemExit, match="spawn: healthy cases did not pass: "):
            control("spawn")


def test_a_crash_in_the_harness_is_named_and_the_next_case_passes():
    line = measure("harness", FAULTS["os._exit(7)"], Limits())
    assert (line.case, line.healthy, line.left, line.ended) == ("crashed", "passed", 0, True)


def test_a_lost_child_of_a_spawned_rank_is_counted():
    line = measure("spawn", FAULTS["setsid child"], Limits())
    assert line.left == 2, "one of each rank"
