"""`coverage --kernels`: what a chip can launch and a run did not, and the exit codes."""

from __future__ import annotations

import dataclasses

import pytest

from harness import cli
from harness.commands import compile_kernels
from harness.commands.kernel_coverage import compared, lines_of
from harness.record.events import CaseEnded
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder
from tests.harness.commands.one_suite import MATRIX
from tests.harness.mutants.certified_cases import case
from tests.harness.record.infos import run_info

ONE, WIDE, INT8 = "_a(bf16) [ROWS=1]", "_a(bf16) [ROWS=8]", "_a(bf16; KIND=int8) [ROWS=1]"


def test_tiles_count_on_the_same_platform_only():
    assert compared([ONE, INT8], [WIDE], by_choice=True).missing == ["_a(bf16; KIND=int8)"]
    assert compared([ONE, INT8], [WIDE, ONE], by_choice=False).missing == [INT8]
    assert compared([ONE, WIDE], [WIDE], by_choice=False).missing == [ONE]


def test_the_table_counts_by_kernel_and_names_what_is_missing():
    lines = lines_of(compared([ONE, INT8, "_b(i32)"], [ONE], by_choice=True))
    assert [line.split()[:3] for line in lines[1:3]] == [["_a", "2", "1"], ["_b", "1", "0"]]
    assert lines[3:] == [
        "not launched: _a(bf16; KIND=int8)",
        "not launched: _b(i32)",
        "incomplete: 2 were not launched",
    ]
    assert lines_of(compared([ONE], [ONE], by_choice=True))[-1] == "complete"


@pytest.fixture
def worker(monkeypatch):
    """A worker that reports what the test says; test_compile_worker.py has a real one."""
    events = []
    monkeypatch.setattr(compile_kernels, "worker", lambda *arguments: iter(events))
    return events


def run_of(path, *results):
    with RunFolder.create(path, run_info(cases=[r.case_id for r in results])) as made:
        for r in results:
            made.append(CaseEnded(time=1.0, gang="g0", result=r))
    return path


def coverage(tmp_path, *results, platform="cuda_sm90"):
    (tmp_path / "matrix.yaml").write_text(MATRIX.format(experts="triton"))
    path = run_of(tmp_path / "run", *results)
    options = ["--kernels", str(path), "--config", str(tmp_path / "matrix.yaml")]
    return cli.main(["coverage", *options, "--suite", "one", "--platform", platform])


PASSED = CaseResult(case_id=case().id, verdict=Verdict.PASSED, kernels=(WIDE,))


def test_a_run_that_launched_all_ends_with_zero(worker, tmp_path, capsys):
    worker.append({"chip": "sm90", "specialisations": [ONE]})
    assert coverage(tmp_path, PASSED) == 0
    out = capsys.readouterr().out
    assert "1 case(s) of cuda_sm90 that differ in what they launch; 1 of the run" in out
    assert out.endswith("complete\n")


def test_what_was_not_launched_ends_with_one(worker, tmp_path, capsys):
    worker.append({"chip": "sm90", "specialisations": [ONE, INT8]})
    assert coverage(tmp_path, PASSED) == 1
    assert "not launched: _a(bf16; KIND=int8)\n" in capsys.readouterr().out


def test_cases_that_did_not_pass_have_shown_nothing(worker, tmp_path, capsys):
    worker.append({"chip": "sm90", "specialisations": [ONE]})
    assert coverage(tmp_path, dataclasses.replace(PASSED, verdict=Verdict.FAILED)) == 1
    assert "0 of the run" in capsys.readouterr().out


def test_a_case_that_cannot_be_recorded_ends_with_one(worker, tmp_path, capsys):
    worker += [{"failed": "a case: ValueError: no"}, {"chip": "sm90", "specialisations": [ONE]}]
    assert coverage(tmp_path, PASSED) == 1
    assert "FAILED a case: ValueError: no\n" in capsys.readouterr().out


def test_a_platform_without_compiled_kernels_is_a_usage_error(tmp_path, capsys):
    assert coverage(tmp_path, PASSED, platform="cpu") == 3
    text = "--kernels compares a run with a chip; name one by --platform, not cpu"
    assert text in capsys.readouterr().err
