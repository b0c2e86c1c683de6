"""`power`: the certificate of a run, earlier or new, and the exit code that follows from it."""

from __future__ import annotations

from harness import cli
from harness.record.events import CaseEnded
from harness.record.run_folder import RunFolder
from tests.harness.mutants.certified_cases import NONE, case, result
from tests.harness.record.infos import run_info


def folder(path, results):
    with RunFolder.create(path, run_info(cases=[r.case_id for r in results])) as made:
        for r in results:
            made.append(CaseEnded(time=1.0, gang="g0", result=r))
    return path


def test_a_whole_run_exits_zero(tmp_path, capsys):
    path = folder(tmp_path / "run", [result(case())])
    assert cli.main(["power", "--from", str(path)]) == 0
    assert "complete: on 1 pair(s)" in capsys.readouterr().out


def test_a_run_with_a_hole_exits_one(tmp_path, capsys):
    path = folder(tmp_path / "run", [result(case(), shared_twice=NONE)])
    assert cli.main(["power", "--from", str(path)]) == 1
    assert "incomplete: 1 wrong answer(s)" in capsys.readouterr().out


def test_a_case_that_has_not_run_leaves_a_hole(tmp_path):
    path = folder(tmp_path / "run", [result(case())])
    info = (path / "run.json").read_text()
    other = case(tp_size=2).id
    (path / "run.json").write_text(info.replace(f'"{case().id}"', f'"{case().id}", "{other}"'))
    assert cli.main(["power", "--from", str(path)]) == 1


def test_from_goes_with_nothing_to_run(tmp_path, capsys):
    path = folder(tmp_path / "run", [result(case())])
    assert cli.main(["power", "--from", str(path), "--suite", "smoke"]) == 3
    assert (
        "--from reads an earlier run and runs nothing: leave out --suite" in capsys.readouterr().err
    )


def test_nothing_to_run_is_a_usage_error(capsys):
    assert cli.main(["power"]) == 3
    assert "choose one of --suite" in capsys.readouterr().err


def test_a_case_is_run_and_certified(tmp_path, capsys):
    """The real way round: run, record, read back."""
    ids = [case(shared_experts=1, n=64, k=64).id]
    assert cli.main(["power", "--case", *ids, "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "cases=1 passed=1" in out
    assert "complete: on 1 pair(s)" in out
