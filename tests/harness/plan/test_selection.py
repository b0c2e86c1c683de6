"""What the options select: a suite, ids, what failed last, or the cases of a folder."""

import re
from pathlib import Path

import pytest

from harness import cli
from harness.plan import machine
from harness.record.result import Verdict
from tests.harness.console import the_folder
from tests.harness.fake_engine import BASE, TEXT


def test_seeds_and_experts(engine):
    cli.main(["run", "--case", BASE, "--seeds", "3", "--experts", "torch_grouped"])
    chosen = engine.calls[0][0].cases
    assert [(case.seed, case.experts) for case in chosen] == [
        (s, "torch_grouped") for s in range(3)
    ]


def test_experts_of_ones_own(engine, monkeypatch):
    monkeypatch.syspath_prepend(".")
    Path("mine_pkg.py").write_text(
        "from moe.spec import ANY, MemberSpec, Needs\n"
        "class Mine:\n"
        "    needs = Needs(dtypes=ANY, formats=ANY, max_world=1)\n"
        "    row = MemberSpec(name='mine', target='mine_pkg:Mine', needs=needs)\n"
    )
    assert cli.main(["run", "--suite", "smoke", "--experts", "mine_pkg:Mine"]) == 0
    assert {case.experts for case in engine.calls[0][0].cases} == {"mine_pkg:Mine"}
    assert {r.code for r in the_folder().info.refused} == {"too_many_ranks"}


@pytest.mark.parametrize(
    ("option", "family"), [("--experts", "experts backend"), ("--layer", "layer")]
)
def test_a_name_that_no_table_has_is_told_without_a_case(engine, capsys, option, family):
    assert cli.main(["run", "--suite", "smoke", option, "nobody"]) == 3
    assert capsys.readouterr().err.startswith(f"no {family} is called 'nobody' (known: ")


def test_the_composed_layer_is_the_default(engine):
    cli.main(["run", "--case", BASE, "--layer", "composed"])
    (case,) = engine.calls[0][0].cases
    assert case.id == BASE


def test_a_layer_of_ones_own(engine, monkeypatch):
    monkeypatch.syspath_prepend(".")
    Path("mine_layers.py").write_text(
        "from moe.layers.base import LayerSubject\n"
        "class Mine(LayerSubject):\n"
        "    def load(self, checkpoint): ...\n"
        "    def forward(self, x): ...\n"
    )
    mine = ["--suite", "smoke", "--layer", "mine_layers:Mine"]
    assert cli.main(["run", *mine]) == 0
    chosen = {(c.layer, c.experts, c.all2all) for c in engine.calls[0][0].cases}
    assert chosen == {("mine_layers:Mine", "own", "allgather_reducescatter")}
    assert cli.main(["list", *mine]) == 0
    assert cli.main(["plan", *mine]) == 0
    (only,) = {case for case in the_folder().info.cases if "-seed" not in case}
    assert only.endswith("experts:own-layer:mine_layers:Mine")
    codes = {r.code for r in the_folder().info.refused}
    assert codes == {"layout_unsupported", "scheme_unsupported"}


def test_last_failed_takes_the_newest_folder(engine):
    engine.verdicts = {f"{BASE}-seed:1": Verdict.HUNG, f"{BASE}-tp:2": Verdict.VACUOUS}
    cli.main(["run", "--suite", "smoke"])
    assert cli.main(["run", "--last-failed"]) == 1
    assert {case.id for case in engine.calls[1][0].cases} == set(engine.verdicts)
    engine.verdicts = {}
    assert cli.main(["run", "--last-failed"]) == 0
    assert cli.main(["run", "--last-failed"]) == 4


def test_last_failed_says_which_limits_it_keeps(engine, capsys):
    engine.verdicts = {f"{BASE}-tp:2": Verdict.FAILED}
    cli.main(["run", "--suite", "smoke", "--time-limit", "7", "--retries", "1"])
    capsys.readouterr()
    cli.main(["run", "--last-failed"])
    note = r"what did not pass in runs/\S+-smoke, with its limits unless options set others: "
    assert re.match(note + r"7 s a case, 1 retry\n", capsys.readouterr().out)


def test_a_suite_that_changed_is_not_resumed(engine, capsys):
    cli.main(["run", "--suite", "smoke", "--out", "here"])
    Path("configs/matrix.yaml").write_text(TEXT.replace("seed: [0, 1]", "seed: [0]"))
    assert cli.main(["run", "--resume", "here", "--suite", "smoke"]) == 3
    assert (
        "suite 'smoke' has changed since 'here' was made: 4 case(s) differ"
        in capsys.readouterr().err
    )
    assert cli.main(["run", "--resume", "here", "--suite", "nothing"]) == 3
    assert "is of suite 'smoke', not suite 'nothing'" in capsys.readouterr().err
    assert cli.main(["run", "--resume", "here"]) == 0


def test_a_folder_is_not_resumed_on_another_kind_of_machine(engine, capsys, monkeypatch):
    cli.main(["run", "--suite", "smoke", "--out", "here"])
    monkeypatch.setattr(machine, "detect", lambda: machine.planned_for("cuda_sm90"))
    assert cli.main(["run", "--resume", "here"]) == 3
    said = capsys.readouterr().err
    assert "this machine would not run the same cases as " in said
    assert "1 case(s) differ" in said
    assert "a machine like the first (cpu)" in said
