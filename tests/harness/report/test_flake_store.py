"""Results of many runs in an SQLite file: what counts as a flake, and which files are refused."""

import dataclasses
import sqlite3

import pytest

from harness.errors import UsageError
from harness.record.result import CaseResult, Verdict
from harness.record.run_info import RunMachine
from harness.report import flake_store
from harness.report.tables import view
from tests.harness.report.stored_run import CASES

PASSED, FAILED, FLAKY = Verdict.PASSED, Verdict.FAILED, Verdict.FLAKY


@pytest.fixture
def run(folder):
    """Return a function that makes a run of one case, an hour after the one before."""
    stored = view(folder)
    times = iter(range(0, 10**6, 3600))

    def make(verdict, git="abc", platform="cpu", message="rank 0: wrong"):
        time = next(times)
        machine = RunMachine(name=platform)
        info = dataclasses.replace(stored.info, time=float(time), git=git, platform=machine)
        messages = () if verdict is PASSED else (message,)
        result = CaseResult(case_id=CASES[0], verdict=verdict, messages=messages)
        return dataclasses.replace(stored, name=f"run{time}", info=info, results=(result,))

    return make


def histories(runs, path=None):
    with flake_store.opened(path) as store:
        for run in runs:
            flake_store.add(store, run)
        return flake_store.histories(store)


def test_a_case_that_failed_and_passed_on_the_same_code_is_a_flake(run):
    (history,) = histories([run(PASSED), run(FAILED), run(FLAKY), run(PASSED)])
    assert (history.flakes, history.runs, history.rate) == (2, 4, 0.5)
    assert history.counts == {"passed": 2, "failed": 1, "flaky": 1}
    assert history.last_failure == ("run7200", "rank 0: wrong")


@pytest.mark.parametrize(
    "other",
    [{"git": "def"}, {"git": "abc-dirty"}, {"git": None}, {"platform": "cuda_sm90"}],
)
def test_a_failure_on_other_code_or_another_chip_is_none(run, other):
    (history,) = histories([run(PASSED), run(FAILED, **other), run(FAILED, git="def")])
    assert (history.flakes, history.counts["failed"]) == (0, 2)


def test_changes_that_were_not_committed_may_differ_between_runs(run):
    (history,) = histories([run(PASSED, git="abc-dirty"), run(FAILED, git="abc-dirty")])
    assert history.flakes == 0


def test_a_run_that_is_added_again_is_replaced(run, tmp_path):
    first = run(FAILED)
    (before,) = histories([first], tmp_path / "runs.db")
    assert before.counts == {"failed": 1}
    resumed = dataclasses.replace(first, results=(CaseResult(case_id=CASES[0], verdict=PASSED),))
    (after,) = histories([resumed, run(PASSED)], tmp_path / "runs.db")
    assert after.counts == {"passed": 2}
    with flake_store.opened(tmp_path / "runs.db") as store:
        assert flake_store.count_runs(store) == 2


def test_cases_that_did_not_run_and_refused_ones_do_not_count(run):
    assert histories([run(Verdict.NOT_RUN)]) == []


def test_a_message_that_utf8_cannot_hold_is_stored(run):
    (history,) = histories([run(FAILED, message="rank 0: \ud800")])
    assert history.last_failure[1] == "rank 0: ?"


def test_the_lines_show_the_flakiest_first(folder, run):
    with flake_store.opened(None) as store:
        flake_store.add(store, view(folder))
        flake_store.add(store, run(PASSED))
        shown = flake_store.lines(flake_store.histories(store), 2)
    assert shown[0] == f"100.0 %  {CASES[3]}  (1 flaky)"
    assert shown[1] == "         last failure in run: attempt 1 was failed"
    assert [line.split()[0] for line in shown[2:-1:2]] == ["0.0", "0.0"]
    assert shown[-1] == "runs=2 cases=4 failed=3 flaky=1"


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    text, other = tmp_path / "text", tmp_path / "other.db"
    text.write_text("no database " * 100)
    store = sqlite3.connect(other)
    store.execute("CREATE TABLE mine (x)")
    store.close()
    for path, message in (
        (text, "file is not a database"),
        (other, "not a store of results of version 1: its user_version is 0; name a new file"),
        (tmp_path / "no/such.db", "unable to open database file"),
    ):
        with pytest.raises(UsageError, match=message):
            histories([], path)
    assert text.read_text() == "no database " * 100


def test_a_failure_adds_nothing(run, tmp_path):
    path = tmp_path / "runs.db"
    histories([run(PASSED)], path)
    broken = dataclasses.replace(run(FAILED), results=(run(FAILED).results[0],) * 2)
    with pytest.raises(UsageError, match="UNIQUE"):
        histories([run(PASSED), broken], path)
    (history,) = histories([], path)
    assert history.counts == {"passed": 1}
