"""What `fuzz` finds is kept, from a mistake of a backend to the suite that runs the case again."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.commands.fuzz_regressions import Keeper
from harness.errors import ConfigError
from harness.record import regressions
from harness.record.result import CaseResult, Verdict
from tests.harness.fake_engine import BASE, TEXT

LOSES_THE_THIRD = "tests.harness.commands.fuzz_members:LosesTheThird"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/matrix.yaml").write_text(TEXT)


def failed(case=BASE):
    return CaseResult(case_id=case, verdict=Verdict.FAILED, messages=("rank 0: 3 rows are wrong",))


def test_a_mistake_that_is_found_is_run_by_every_suite_until_it_is_mended(capsys):
    least = ["m:1", "n:64", "k:64", "e:3", "topk:3"]
    asked = ["fuzz", "--experts", LOSES_THE_THIRD, "--set", *least, "--cases", "1", "-x"]
    kept = ["--regressions", "configs/regressions.yaml"]
    assert cli.main([*asked, *kept, "--budget", "4m", "--out", "found"]) == 1
    assert "kept in configs/regressions.yaml: every suite" in capsys.readouterr().out
    (entry,) = regressions.load(regressions.DEFAULT)
    assert (entry.verdict, LOSES_THE_THIRD in entry.case) == ("failed", True)
    assert entry.cause
    assert cli.main(["run", "--suite", "nothing", "--out", "wrong"]) == 1
    assert "cases=2 passed=0 failed=1 " in capsys.readouterr().out.splitlines()[-1]
    again = [*asked, *kept, "--seed", "1", "--budget", "4m", "--out", "again"]
    assert cli.main(again) == 1
    assert f"kept already in configs/regressions.yaml, as {entry.case}" in capsys.readouterr().out
    right = regressions.DEFAULT.read_text().replace(LOSES_THE_THIRD, "torch_loop")
    regressions.DEFAULT.write_text(right)
    assert cli.main(["run", "--suite", "nothing", "--out", "right"]) == 0
    assert "cases=2 passed=1 " in capsys.readouterr().out.splitlines()[-1]


def test_nothing_is_kept_without_a_file():
    assert Keeper.of(None).line(failed()).startswith("not kept: --regressions FILE appends it")
    assert not regressions.DEFAULT.exists()


def test_the_file_of_the_current_folder_keeps_what_names_of_tables_say():
    regressions.DEFAULT.write_text(regressions.HEAD)
    keeper = Keeper.of(None)
    path_case = BASE.replace("torch_loop", LOSES_THE_THIRD)
    assert keeper.line(failed(path_case)).startswith(f"not kept: {LOSES_THE_THIRD} is not a name")
    assert regressions.load(regressions.DEFAULT) == []
    assert keeper.line(failed()).startswith("kept in configs/regressions.yaml")
    named = Keeper.of(regressions.DEFAULT)
    assert named.line(failed(path_case)).startswith("kept in configs/regressions.yaml")
    assert [e.case for e in regressions.load(regressions.DEFAULT)] == [BASE, path_case]


def test_a_file_with_an_error_ends_fuzz_before_it_runs(capsys):
    regressions.DEFAULT.write_text("version: 2\nentries: []\n")
    with pytest.raises(ConfigError, match="version: must be 1, not 2"):
        Keeper.of(None)
    assert cli.main(["fuzz", "--budget", "1s"]) == 3
    assert capsys.readouterr().err == "configs/regressions.yaml:1:10: version: must be 1, not 2\n"
    assert not Path("runs").exists()


def test_a_file_that_breaks_meanwhile_loses_no_verdict():
    keeper = Keeper.of(Path("gone/regressions.yaml"))
    assert keeper.line(failed()).startswith("not kept: cannot write 'gone/regressions.yaml'")
