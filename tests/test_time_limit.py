"""A test that hangs fails by name, with its stack, and the others run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import itertools, time

def test_waits():
    time.sleep(100)  # Python looks at signals here

def test_waits_in_c():
    sum(itertools.repeat(0))  # and not here

def test_passes():
    pass
"""


def test_the_limit_of_this_projects_tests(pytestconfig: pytest.Config) -> None:
    assert float(pytestconfig.getini("timeout")) == 300
    assert pytestconfig.getini("timeout_method") == "signal"


def test_tests_that_hang_fail_and_the_rest_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("pytest_timeout")
    file = tmp_path / "test_hangs.py"
    file.write_text(TESTS)
    settings = ("-c", str(ROOT / "pyproject.toml"), "-o", "timeout=1", f"--rootdir={tmp_path}")
    command = (sys.executable, "-m", "pytest", "-p", "tests.time_limit", "-n", "1", *settings)
    done = subprocess.run(
        [*command, str(file)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "2 failed, 1 passed" in done.stdout
    assert "time.sleep(100)  #" in done.stdout  # the traceback of the first
    assert "Timeout (>1.0s) from pytest-timeout" in done.stdout
    assert "crashed while running" in done.stdout
    assert "test_hangs.py::test_waits_in_c" in done.stdout
    assert "in test_waits_in_c" in done.stderr  # where it stood
