"""`-k` and `--exclude` on `run` and `list`: what runs, what is recorded, and wrong use."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.plan.machine import planned_for
from harness.plan.narrowing import Exclusion, kept, without_excluded
from harness.plan.plan import make_plan
from harness.plan.selection import of_ids
from harness.record.run_folder import RunFolder
from tests.harness.console import last_line, summary, the_folder
from tests.harness.fake_engine import BASE

IDS = [BASE, f"{BASE}-tp:2", f"{BASE}-seed:1"]


def plan():
    return make_plan(of_ids(IDS).points, planned_for("cpu"))


def test_each_point_stays_in_one_place():
    assert [case.id for case in kept(plan(), "seed:1 or tp:2").cases] == [IDS[2], IDS[1]]
    first = Exclusion(expression="tp:2", reason="slow")
    second = Exclusion(expression="tp:2 or seed:1", reason="other")
    narrowed = without_excluded(plan(), [first, second])
    assert [case.id for case in narrowed.cases] == [BASE]
    reasons = {refusal.case.id: refusal.reason for refusal in narrowed.refused}
    assert {case: reason.text for case, reason in reasons.items()} == {
        IDS[1]: "slow",
        IDS[2]: "other",
    }
    assert {reason.code for reason in reasons.values()} == {"excluded"}


def test_run_and_list_keep_what_an_expression_matches(engine, capsys):
    assert cli.main(["run", "--suite", "smoke", "-k", "tp:2 and not fp8"]) == 0
    assert summary(2, passed=2).match(last_line(capsys))
    assert list(the_folder().info.cases) == [f"{BASE}-tp:2", f"{BASE}-tp:2-seed:1"]
    assert cli.main(["list", "-k", "tp:2 and not fp8"]) == 0
    assert capsys.readouterr().out.split("\n\n")[0].splitlines() == list(the_folder().info.cases)


def test_what_is_excluded_is_skipped_for_its_reason_also_when_resumed(engine, capsys):
    options = ["--exclude", "fp8_block", "--reason", "scales are wrong", "--out", "here"]
    engine.stop_after = (3, KeyboardInterrupt())
    assert cli.main(["run", "--suite", "smoke", *options]) == 130
    capsys.readouterr()
    refused = RunFolder.open(Path("here")).info.refused
    assert [(point.code, point.text) for point in refused if "fp8" in point.case] == [
        ("excluded", "scales are wrong")
    ] * 4
    engine.stop_after = None
    assert cli.main(["run", "--resume", "here"]) == 0
    assert summary(9, passed=4, skipped=5).match(last_line(capsys))
    assert not any("fp8" in case.id for plan, _ in engine.calls for case in plan.cases)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["-k", "nothing"], 4, "-k 'nothing' matches none of 9 case id(s)"),
        (["-k", "a b"], 3, "-k 'a b', column 3: expected an operator"),
        (["--exclude", "tp:2"], 3, "needs a --reason TEXT of its own"),
        (["--reason", "x"], 3, "(0 --exclude, 1 --reason)"),
        (["--exclude", "tp:2", "--reason", " "], 3, "needs a --reason"),
        (["--exclude", "tp:3", "--reason", "x"], 3, "--exclude 'tp:3' matches no case; correct"),
        (["--exclude", "(", "--reason", "x"], 3, "--exclude '(', at its end"),
        (["--exclude", "m:2", "--reason", "x"], 4, "excluded"),
    ],
)
def test_wrong_use_is_one_clear_line(engine, capsys, options, code, message):
    for command in ("run", "list"):
        assert cli.main([command, "--suite", "smoke", *options]) == code
        shown = capsys.readouterr()
        assert message in shown.out + shown.err
    assert not Path("runs").exists()
    assert engine.calls == []
