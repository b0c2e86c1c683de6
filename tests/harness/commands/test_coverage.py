"""`coverage` prints a certificate, ends with a code that fits it, and writes PICT's language."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.errors import ExitCode
from harness.plan import suites
from tests.harness.matrix.covering.blocks import DEFAULTS, suite

ROOT = Path(__file__).parents[3]
AXES = """shapes: [[4, 128, 256], [8, 192, 64]], top_k: [1, 2, 3],
         experts: [torch_loop, torch_grouped, vllm_triton], dtype: [bf16, f32],
         layouts: [{}, {tp: 2}]"""
FULL = "{shapes: [[4, 64, 64]], experts: [torch_loop, torch_grouped], dtype: [bf16, f32]}"
TEXT = DEFAULTS + suite(FULL) + f"      - {{select: pairwise, {AXES}}}\n"


@pytest.fixture
def matrix(tmp_path):
    path = tmp_path / "matrix.yaml"
    path.write_text(TEXT)
    return path


def coverage(matrix, *more):
    words = ("--suite", "one", "--config", str(matrix), "--platform", "cpu")
    return main(["coverage", *words, *more])


def test_a_complete_certificate(matrix, capsys):
    assert coverage(matrix) == ExitCode.PASSED
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "block 1: full: experts 2, dtype 2",
        "  3 of 4 point(s) are cases; refused: 1 dtype_unsupported",
    ]
    assert lines[3] == "block 2: pairwise: shapes 2, top_k 3, experts 3, dtype 2, layouts 2"
    assert lines[5:8] == [
        "  any 2 of 5 axes: 47 of 47 feasible combinations are covered",
        "    at least 6 cases are necessary; shapes x top_k alone needs 6",
        "    10 are impossible: 9 platform_lacks_feature, 1 dtype_unsupported",
    ]
    assert "no case has dtype: fp16" in lines[8:-1], "what no block lists is in no combination"
    assert "no case has gate: true" in lines[8:-1]
    assert lines[-1] == "complete"


def test_an_uncovered_combination_is_named_and_the_code_is_1(matrix, capsys, monkeypatch):
    every = suites.cases

    def some(*args):
        return tuple(case for case in every(*args) if case.top_k != 3)

    monkeypatch.setattr(suites, "cases", some)
    assert coverage(matrix) == ExitCode.FAILED
    out = capsys.readouterr().out
    assert "  uncovered: shapes=4x128x256, top_k=3\n" in out
    count = out.count("  uncovered: ")
    assert count >= out.count("top_k=3") == 8
    assert f"\nincomplete: {count} uncovered\n" in out


def test_one_block_alone(matrix, capsys):
    assert coverage(matrix, "--block", "1") == ExitCode.PASSED
    assert "block 2" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("0", "argument --block: give a whole number of at least 1, not '0'"),
        ("3", "--block must be 1 to 2 in one, not 3"),
    ],
)
def test_a_block_that_is_not_there(matrix, capsys, number, text):
    assert coverage(matrix, "--block", number) == ExitCode.USAGE
    assert text in capsys.readouterr().err


def test_a_suite_of_which_nothing_can_run(tmp_path, capsys):
    path = tmp_path / "matrix.yaml"
    path.write_text(TEXT.replace("torch_loop, torch_grouped", "vllm_permute"))
    assert coverage(path) == ExitCode.NOTHING_SELECTED
    assert capsys.readouterr().out.endswith("nothing can run\n")


def test_the_block_that_selects_some_points_is_written_for_pict(matrix, tmp_path):
    path = tmp_path / "model.pict"
    assert coverage(matrix, "--pict", str(path)) == ExitCode.PASSED
    lines = path.read_text().splitlines()
    assert lines[0] == "# block 2 of suite one on cpu"
    assert "top_k: 1, 2, 3" in lines
    assert 'IF [experts] = "torch_grouped" THEN [dtype] <> "f32";' in lines


def test_pict_wants_one_block(matrix, capsys, tmp_path):
    path = tmp_path / "model.pict"
    matrix.write_text(TEXT + f"      - {{select: triples, {AXES}}}\n")
    assert coverage(matrix, "--pict", str(path)) == ExitCode.USAGE
    assert "--pict writes one block, and one has 2 that select" in capsys.readouterr().err
    assert coverage(matrix, "--pict", str(path), "--block", "3") == ExitCode.PASSED
    assert "# block 3 of suite one" in path.read_text()


def test_a_pict_file_that_cannot_be_written_is_named(matrix, tmp_path, capsys):
    assert coverage(matrix, "--pict", str(tmp_path / "no" / "x")) == ExitCode.USAGE
    assert "cannot write" in capsys.readouterr().err


def test_it_starts_without_torch(matrix):
    code = "import sys, json\nfrom harness.cli import main\n"
    code += f"main(['coverage', '--suite', 'one', '--config', {str(matrix)!r}])\n"
    code += "print(json.dumps([m for m in ('torch', 'numpy', 'triton') if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
