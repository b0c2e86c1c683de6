"""`flakes`: runs of the harness in a store of results."""

import pytest

from harness import cli
from harness.record.result import Verdict
from tests.harness.fake_engine import BASE


def test_runs_are_added_to_a_store_and_shown(engine, capsys):
    engine.verdicts[f"{BASE}-tp:2"] = Verdict.FLAKY
    cli.main(["run", "--suite", "smoke", "--out", "one"])
    engine.verdicts.clear()
    cli.main(["run", "--suite", "smoke", "--out", "two"])
    capsys.readouterr()
    assert cli.main(["flakes", "one", "two", "--db", "runs.db"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f" 50.0 %  {BASE}-tp:2  (1 flaky, 1 passed)",
        "         last failure in one: rank 0: wrong",
        "runs=2 cases=8 failed=1 flaky=1",
    ]
    assert cli.main(["flakes", "--db", "runs.db"]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert cli.main(["flakes", "two"]) == 0  # without a file
    assert capsys.readouterr().out == "runs=1 cases=8 failed=0 flaky=0\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name run folders, or an earlier store of results with --db FILE"),
        (["--db", "absent.db"], "there is no store of results 'absent.db'"),
        (["nowhere"], "'nowhere' is not a run folder"),
    ],
)
def test_bad_input_is_one_line_and_makes_no_file(engine, tmp_path, capsys, arguments, message):
    assert cli.main(["flakes", *arguments]) == 3
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.db"))
