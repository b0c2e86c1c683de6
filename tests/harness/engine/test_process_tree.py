"""Processes below this one are listed through every level, and killed until none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from harness.engine import process_tree
from tests.harness.engine.engine_tools import wait_for


def test_descendants_are_found_through_every_level():
    code = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    found = wait_for(lambda: len(below := process_tree.descendants(child.pid)) == 1 and below)
    assert found
    assert set(found) < set(process_tree.descendants(os.getpid()))
    os.kill(found[0], signal.SIGKILL)
    child.kill()
    child.wait()
