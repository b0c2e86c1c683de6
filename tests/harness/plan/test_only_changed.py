"""Which cases changed files feed: by this project's own imports, and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.plan import only_changed
from harness.plan.changed_members import ROOT
from harness.plan.git_diff import Difference
from harness.plan.only_changed import Fed, fed_by
from harness.plan.plan import make_plan
from tests.harness.console import last_line, summary
from tests.harness.fake_engine import BASE
from tests.harness.plan.points import CPU, case
from tests.harness.plan.repositories import repository, write

TRITON, LOOP = ("experts", "triton"), ("experts", "torch_loop")
NAMED = frozenset({TRITON, LOOP, ("quant", "fp8_block"), ("router", "softmax")})


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    """What changed files with rows alone feed; tests of that are in test_changed_rows.py."""
    rows = {}
    monkeypatch.setattr(only_changed, "changed_rows", lambda _: rows)
    return rows


def fed(*files, named=NAMED):
    changes = Difference(revision="main", root=ROOT, files=files, commit="")
    return {f.file: f.members for f in fed_by(changes, named)}


@pytest.mark.parametrize(
    ("file", "members"),
    [
        ("moe/experts/triton.py", {TRITON}),
        ("moe/kernels/grouped_gemm.py", {TRITON}),  # imported by it
        ("moe/experts/torch_loop.py", {LOOP}),
        ("moe/routers/softmax/truth.py", {("router", "softmax")}),
    ],
)
def test_a_members_file_and_what_it_imports_feed_that_member(file, members):
    assert fed(file) == {file: members}


@pytest.mark.parametrize(
    "file",
    [
        *("harness/report/junit.py", "configs/matrix.yaml", "pyproject.toml", "kernels/mine.cu"),
        "moe/layer.py",  # ranks import it for every case
        "moe/experts/__init__.py",  # the table of rows, of which more than rows differs
        "moe/platforms/cpu.py",
        "moe/reference/layer.py",
        "moe/no_longer_there.py",
    ],
)
def test_what_all_cases_use_or_nothing_tells_feeds_every_case(file):
    assert fed(file) == {file: None}


def test_a_table_feeds_the_members_whose_rows_differ_and_no_others(rows):
    rows["moe/experts/__init__.py"] = frozenset([TRITON, ("experts", "of_no_case")])
    rows["moe/quant/__init__.py"] = frozenset()
    assert fed(*rows) == {"moe/experts/__init__.py": {TRITON}}


def test_documentation_tests_and_members_of_no_case_feed_nothing():
    files = ("docs/runs.md", "tests/test_words.py", "README.md", ".buildkite/pipeline.yml")
    assert fed(*files, "benchmarks/engine.py", "scripts/setup_env.py") == {}
    assert fed("moe/experts/torch_loop.py", named=frozenset({TRITON})) == {}


def test_a_plan_keeps_the_cases_and_refusals_of_changed_members(monkeypatch):
    cases = [case(), case(experts="triton", m=3), case(experts="flashinfer_cutlass")]
    files = ("docs/ci.md", "moe/experts/flashinfer_cutlass.py", "moe/experts/triton.py")
    changes = Difference(revision="main", root=ROOT, files=files, commit="")
    monkeypatch.setattr(only_changed, "difference", lambda *_: changes)
    narrowed = only_changed.only_changed(make_plan(cases, CPU), "main")
    assert list(narrowed.plan.cases) == [cases[1]]
    assert [refusal.case for refusal in narrowed.plan.refused] == [cases[2]]
    assert narrowed.lines() == [
        "--only-changed main: 1 of 2 case(s), which 2 file(s) feed",
        "    moe/experts/flashinfer_cutlass.py: experts flashinfer_cutlass",
        "    moe/experts/triton.py: experts triton",
    ]


def test_a_long_list_ends_with_a_count():
    many = frozenset(("quant", f"q{i}") for i in range(9))
    line = Fed(file="a.py", members=many).line()
    assert line == "    a.py: quant q0, quant q1, quant q2, quant q3, quant q4, quant q5 and 3 more"
    files = tuple(Fed(file=f"{i}.py", members=None) for i in range(11))
    narrowed = only_changed.Narrowed(plan=make_plan([], CPU), revision="x", total=0, fed=files)
    assert narrowed.lines()[-1] == "    and 3 more file(s)"
    assert len(narrowed.lines()) == 10


def test_run_list_and_plan_say_what_they_selected(engine, capsys):
    repository(Path.cwd(), {"mine.cu": ""})
    Path("mine.cu").write_text("x")
    assert cli.main(["run", "--suite", "smoke", "--only-changed", "HEAD", "-k", "tp:2"]) == 0
    out = capsys.readouterr().out
    assert "--only-changed HEAD: 4 of 4 case(s), which 1 file(s) feed\n    mine.cu: every" in out
    assert summary(4, passed=4).match(out.splitlines()[-1])
    for command in ("list", "plan"):
        assert cli.main([command, "--only-changed", "HEAD"]) == 0
        assert "--only-changed HEAD: 8 of 8 case(s)" in capsys.readouterr().out


def test_where_nothing_is_fed_the_exit_code_is_4_and_a_line_says_why(engine, capsys):
    repository(Path.cwd(), {"docs/a.md": ""})
    for change, why in [(False, "differs from it"), (True, "none of 1 changed file(s), such as d")]:
        if change:
            write(Path.cwd(), {"docs/a.md": "text"})
        for command in ("run", "list", "plan"):
            assert cli.main([command, "--suite", "smoke", "--only-changed", "HEAD"]) == 4
            shown = capsys.readouterr()
            assert why in shown.err
            assert shown.err.count("\n") == 1
    assert engine.calls == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only-changed", "nobody"], "'nobody': "),
        (["--only-changed=--output=x"], "'--output=x': give a commit"),
        (["--only-changed"], "expected one argument"),
    ],
)
def test_wrong_use_is_one_clear_line(engine, capsys, options, message):
    for command in ("run", "list"):
        assert cli.main([command, "--suite", "smoke", *options]) == 3
        shown = capsys.readouterr()
        assert message in shown.err
        assert shown.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_run_that_goes_on_keeps_its_cases(engine, capsys):
    assert cli.main(["run", "--case", BASE, "--out", "here"]) == 0
    assert "passed=1" in last_line(capsys)
    assert cli.main(["run", "--resume", "here", "--only-changed", "HEAD"]) == 3
    assert "leave out --only-changed" in capsys.readouterr().err
