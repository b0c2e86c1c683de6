"""`--moe-out`: what a pytest run leaves in a run folder, and what the commands make of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness import cli
from harness.record.events import RunEnded
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder, last_results
from harness.testing.suite_cases import SuiteOptions, points_of
from harness.testing.suite_record import RESULT, SuiteRecord
from tests.harness.testing import pytest_runs
from tests.harness.testing.pytest_runs import BASE, MATRIX, ONE, REFUSED, TWO

LIST = ("--collect-only", "-q")


def test_workers_results_become_a_run_folder_that_the_commands_read(tmp_path, capsys):
    done = pytest_runs.run(tmp_path, "-n", "2", "--moe-out", "here", "-k", "not seed:1")
    assert (done.code, done.left) == (0, [])
    folder = RunFolder.open(tmp_path / "here")
    assert set(folder.info.cases) == {BASE, f"{BASE}-tp:2"}  # what -k left out was not asked for
    assert [REFUSED.endswith(point.case) for point in folder.info.refused] == [True]
    results = last_results(folder.events())
    assert {case: result.verdict for case, result in results.items()} == dict.fromkeys(
        folder.info.cases, Verdict.PASSED
    )
    assert results[BASE].members["experts"] == "TorchLoopExperts"  # all that `run` records is there
    assert isinstance(folder.events()[-1], RunEnded)
    assert f"run folder: {tmp_path / 'here'}" in done.text
    assert cli.main(["report", str(tmp_path / "here")]) == 0
    assert "cases=3 passed=2 " in capsys.readouterr().out
    again = pytest_runs.run(tmp_path, *LIST, "--moe-out", "here")
    assert f"--moe-out: '{tmp_path / 'here'}' is there already; choose a new folder" in again.text
    assert again.code == 4
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def record(tmp_path):
    (tmp_path / "m.yaml").write_text(MATRIX)
    options = SuiteOptions(suite="small", matrix=tmp_path / "m.yaml")
    return SuiteRecord(options, points_of(options), tmp_path / "out", ["pytest"])


def session(*nodes, failed=0, plugins=(), **options):
    """What the record reads of a session. failed: errors of the collection."""
    config = SimpleNamespace(
        getoption=lambda name: options.get(name, False),
        pluginmanager=SimpleNamespace(has_plugin=lambda name: name in plugins),
    )
    items = [SimpleNamespace(nodeid=node) for node in nodes]
    return SimpleNamespace(config=config, items=items, testsfailed=failed)


def report(case, verdict=Verdict.PASSED):
    import json

    result = CaseResult(case_id=case, verdict=verdict, seconds=1.0)
    return SimpleNamespace(**{RESULT: json.dumps(result.to_json())})


def test_a_session_that_ends_early_leaves_cases_that_are_not_run(record, tmp_path, capsys):
    record.pytest_runtestloop(session(ONE, TWO, "test_x.py::test_y[world1::z]"))
    record.pytest_runtest_logreport(SimpleNamespace())  # of a test that is not a case
    record.pytest_runtest_logreport(report(BASE, Verdict.FAILED))
    record.pytest_runtest_logreport(report(BASE))  # run again by another plugin: the last counts
    record.pytest_sessionfinish()
    folder = RunFolder.open(tmp_path / "out")
    assert not isinstance(folder.events()[-1], RunEnded)
    assert last_results(folder.events())[BASE].verdict is Verdict.PASSED
    assert cli.main(["report", str(tmp_path / "out")]) == 0
    assert " not_run=1 " in capsys.readouterr().out


def test_nothing_is_written_without_cases_or_for_a_list(record, tmp_path):
    record.pytest_runtestloop(session("test_x.py::test_y"))
    record.pytest_runtestloop(session(ONE, collectonly=True))
    record.pytest_runtestloop(session(ONE, failed=1))  # pytest itself stops there
    record.pytest_runtestloop(session(plugins=["dsession"]))  # workers have the cases
    record.pytest_sessionfinish()
    assert not (tmp_path / "out").exists()
    record.pytest_runtestloop(session(ONE, failed=1, continue_on_collection_errors=True))
    assert (tmp_path / "out").is_dir()


def test_a_folder_that_cannot_be_made_is_named(record, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(pytest.UsageError, match="--moe-out: cannot make the run folder"):
        record.pytest_runtestloop(session(ONE))
