"""`diff` of two runs: the exit code says whether something is worse."""

from pathlib import Path

from harness import cli
from harness.record.result import Verdict
from tests.harness.console import last_line
from tests.harness.fake_engine import BASE


def test_what_is_worse_ends_with_1_and_what_is_better_with_0(engine, capsys):
    cli.main(["run", "--suite", "smoke", "--out", "a"])
    engine.verdicts[f"{BASE}-tp:2"] = Verdict.FAILED
    cli.main(["run", "--suite", "smoke", "--out", "b"])
    capsys.readouterr()
    assert cli.main(["diff", "a", "b"]) == 1
    out = capsys.readouterr().out
    assert f"newly failing\n  {BASE}-tp:2  passed -> failed" in out
    assert out.splitlines()[-1].startswith(
        "newly_failing=1 no_longer_run=0 outputs_differ=0 fixed=0 "
    )
    assert cli.main(["diff", "b", "a"]) == 0
    assert " fixed=1 " in last_line(capsys)
    assert cli.main(["diff", "a", "b", "--markdown", "diff.md"]) == 1
    assert "<summary>newly failing: 1</summary>" in Path("diff.md").read_text()


def test_what_is_no_run_and_what_cannot_be_written(engine, capsys):
    cli.main(["run", "--suite", "smoke", "--out", "a"])
    assert cli.main(["diff", "a", "absent"]) == 3
    assert cli.main(["diff", "a", "a", "--markdown", "no/such/folder.md"]) == 3
    assert "cannot write 'no/such/folder.md': No such file" in capsys.readouterr().err
