"""The table of faults names tests that exist, and the document shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.faults.campaign import CAMPAIGN, table

ROOT = Path(__file__).parents[2]


def test_every_fault_has_a_test_that_is_collected():
    files = sorted({fault.test.partition("::")[0] for fault in CAMPAIGN})
    command = [sys.executable, "-m", "pytest", "--collect-only", *files]
    # -v would print a tree; with extra rows (in PYTHONPATH) some tests are left out.
    unwanted = {"PYTEST_ADDOPTS", "PYTHONPATH"}
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    missing = {fault.test for fault in CAMPAIGN} - set(done.stdout.splitlines())
    assert missing == set()


def test_the_document_shows_the_table():
    lines = (ROOT / "docs" / "reliability.md").read_text().splitlines()
    start = lines.index(table()[0])
    assert lines[start : start + len(table())] == table()
