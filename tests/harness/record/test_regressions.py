"""The file of cases that failed once: what it must say, what is appended, and who reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.errors import ConfigError, UsageError
from harness.matrix.schema import schema
from harness.record import regressions
from harness.record.regressions import HEAD, Regression, RegressionsFile, append, beside, load
from harness.testing.suite_cases import SuiteOptions, points_of
from tests.harness.fake_engine import BASE, TEXT

ROOT = Path(__file__).parents[3]
OTHER = f"{BASE}-seed:7"


def entry(case=BASE, cause="3 of 8 rows are wrong", verdict="failed", **fields):
    return Regression(case=case, verdict=verdict, cause=cause, **fields)


def test_the_committed_file_is_read_and_its_schema_is_current():
    assert load(ROOT / regressions.DEFAULT) == []
    rule = "run: python -m harness schema --regressions > configs/regressions.schema.json"
    committed = (ROOT / "configs/regressions.schema.json").read_text()
    assert committed == schema(RegressionsFile), rule


def test_what_is_appended_is_read_again_and_the_rest_of_the_file_stays(tmp_path):
    path = tmp_path / "regressions.yaml"
    first = entry(origin="2026-11-29, fuzz", cause='a "quoted": # cause\\')
    assert append(path, first) is None
    assert path.read_text().startswith(HEAD.replace(" []", ""))
    path.write_text(path.read_text() + "# by hand\n")
    second = entry(case=OTHER, verdict="hung")
    assert append(path, second) is None
    assert load(path) == [first, second]
    assert "# by hand\n  - case:" in path.read_text()
    assert [case.id for case in beside(tmp_path / "matrix.yaml")] == [BASE, OTHER]
    assert [p.name for p in tmp_path.iterdir()] == ["regressions.yaml"]


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (entry(cause="anything"), True),
        (entry(case=OTHER), True),
        (entry(case=OTHER, cause="7 of 16 rows are wrong"), True),
        (entry(case=OTHER, cause="3 of 8 experts are wrong"), False),
        (entry(case=OTHER, verdict="hung"), False),
        (entry(case=OTHER.replace("torch_loop", "triton")), False),
        (entry(case=OTHER, cause=""), False),
    ],
)
def test_one_case_is_kept_for_each_cause_of_a_member(tmp_path, other, is_same):
    path = tmp_path / "regressions.yaml"
    append(path, entry())
    before = path.read_text()
    assert append(path, other) == (entry() if is_same else None)
    assert (path.read_text() == before) == is_same


def test_without_a_cause_only_equal_cases_are_the_same(tmp_path):
    path = tmp_path / "regressions.yaml"
    append(path, entry(cause=""))
    assert append(path, entry(case=OTHER, cause="")) is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "1:1: must be a mapping, not None"),
        ("version: 1\n", "1:1: entries: lacks the key 'entries'"),
        ("version: 1\nentries: [\n", "3:1: not valid YAML"),
        ("version: 1\nentries: [{case: x, verdict: failed}]\n", "2:18: entries[0].case: case id"),
        (f"version: 1\nentries: [{{case: '{BASE}'}}]\n", "lacks the key 'verdict'"),
        (f"version: 1\nentries: [{{case: '{BASE}', verdict: bad}}]\n", "must be 'failed', 'error'"),
        (f"version: 1\nentries: [{{case: '{BASE}', verdict: hung, x: 1}}]\n", "x: unknown key"),
    ],
)
def test_an_error_of_the_file_has_its_place_and_nothing_is_appended(tmp_path, text, error):
    path = tmp_path / "regressions.yaml"
    path.write_text(text)
    for use in (
        lambda: load(path),
        lambda: beside(tmp_path / "m.yaml"),
        lambda: append(path, entry()),
    ):
        with pytest.raises(ConfigError) as caught:
            use()
        assert error in str(caught.value)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "entries: []\nversion: 1\n",
        f"version: 1\nentries: [{{case: '{OTHER}', verdict: hung}}]\n",
        f"version: 1\nentries:\n    - case: '{OTHER}'\n      verdict: hung\n",
    ],
)
def test_a_file_of_another_form_is_left_and_the_lines_are_given(tmp_path, text):
    path = tmp_path / "regressions.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        append(path, entry())
    assert f'append:\n  - case: "{BASE}"\n    verdict: "failed"\n' in str(caught.value)
    assert path.read_text() == text


def test_a_file_that_cannot_be_written_is_named_and_no_part_is_left(tmp_path):
    path = tmp_path / "gone" / "regressions.yaml"
    with pytest.raises(UsageError, match=r"cannot write .*gone.*: No such file or directory"):
        append(path, entry())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def project(engine, tmp_path):
    """A folder with a matrix file, and a case beside it that no suite has."""
    append(regressions.DEFAULT, entry(case=OTHER))
    append(regressions.DEFAULT, entry(cause="which a suite has"))
    return tmp_path


@pytest.mark.parametrize("suite", ["smoke", "nothing"])
def test_every_suite_runs_each_case_once(project, engine, suite, capsys):
    assert cli.main(["run", "--suite", suite]) == 0
    ran = [case.id for plan, _ in engine.calls for case in plan.cases]
    assert ran.count(OTHER) == ran.count(BASE) == 1
    assert "with 2 case(s) of regressions.yaml, which failed once" in capsys.readouterr().out


def test_pytest_has_them_too_with_a_line_of_their_suite(project):
    lines = points_of(SuiteOptions(suite="smoke", matrix=project / "configs/matrix.yaml"))
    assert lines[OTHER] == TEXT.splitlines().index("  smoke:") + 2  # its value
    assert lines[BASE] == lines[f"{BASE}-tp:2"] > lines[OTHER]
