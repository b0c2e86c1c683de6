"""What pytest shows of a test that fails here: the test's own line and the message."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FAILING = """\
import torch
from harness import assert_close, parallel_launch

def test_values():
    assert_close(torch.ones(4, 64) * 1.5, torch.ones(4, 64), name="mine")

def test_integers():
    assert_close(torch.ones(3, dtype=torch.int32), torch.zeros(3, dtype=torch.int32))

def test_shapes():
    assert_close(torch.ones(3), torch.ones(4))

def test_declarations():
    assert_close(torch.ones(3), torch.ones(3), accumulate="f8")

def test_blind():
    assert_close(torch.ones(1, 4), torch.ones(1, 4), noise=0.9)

def test_world():
    parallel_launch(0, print)

def test_pickling():
    parallel_launch(1, lambda: None)

def test_ranks():
    parallel_launch(1, divide, 1, 0, timeout=60)

def divide(a, b):
    return a / b
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What pytest prints of FAILING, in full length."""
    folder = tmp_path_factory.mktemp("failing")
    (folder / "test_failing.py").write_text(FAILING)
    pytest_run = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "--tb=long"]
    command = [*pytest_run, f"--rootdir={folder}", "--import-mode=prepend", "test_failing.py"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(folder)}
    ran = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    assert "8 failed" in ran.stdout, ran.stdout + ran.stderr
    return ran.stdout


def test_no_source_of_the_harness_is_shown(shown):
    sources = [line for line in shown.splitlines() if "harness/testing/" in line.partition(":")[0]]
    assert sources == []
    assert "def assert_close" not in shown
    assert "def parallel_launch" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "E       AssertionError: mine: ",
        "3 of 3 elements differ",
        "shapes must be the same; nothing is broadcast",
        "accumulate is 'f8'",
        "zeros would pass; declare fewer terms",
        "world_size must be at least 1, not 0",
        "cannot be sent to the ranks",
        "ZeroDivisionError: division by zero",
        ">       assert_close(torch.ones(3), torch.ones(4))",
        ">       parallel_launch(1, divide, 1, 0, timeout=60)",
    ],
)
def test_the_message_and_the_test_s_line_are_shown(shown, text):
    assert text in shown
