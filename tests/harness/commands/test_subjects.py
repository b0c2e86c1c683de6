"""`subjects`: a table of what runs showed of other people's code."""

from harness import cli
from harness.record.result import Verdict
from tests.harness.fake_engine import BASE

MINE = "m:8-n:64-k:64-e:4-topk:2-experts:tests.harness.execute_ranks:ConvertsInPlace"


def test_the_table_and_the_cases_that_deviate(engine, capsys):
    engine.verdicts[f"{MINE}-seed:1"] = Verdict.FAILED
    cli.main(["run", "--case", MINE, "--seeds", "2", "--out", "one"])
    capsys.readouterr()
    assert cli.main(["subjects", "one"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| subject | version | machine | cases | passed, declared |")
    name = "tests.harness.execute_ranks:ConvertsInPlace"
    assert lines[2].startswith(f"| {name} | - | cpu | 2 | 1 | 0 | 1 failed | ")
    assert lines[3:] == ["", f"failed in one: {MINE}-seed:1"]


def test_runs_without_a_subject_are_no_table(engine, capsys):
    cli.main(["run", "--case", BASE, "--out", "one"])
    assert cli.main(["subjects", "one"]) == 4
    assert "no case of 'one' ran a member that needs a package" in capsys.readouterr().err
    assert cli.main(["subjects", "nowhere"]) == 3
