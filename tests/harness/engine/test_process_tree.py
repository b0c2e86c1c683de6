"""Processes below this one are listed through every level, and killed until none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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


ROOT = Path(process_tree.__file__).parents[2]
KILLS = """
import subprocess, sys, time
from harness.engine import process_tree
process_tree.become_subreaper()
inner = "import subprocess, time; subprocess.Popen(['sleep', '60'], start_new_session=True);"
inner += "print('up', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", inner], stdout=subprocess.PIPE)
child.stdout.readline()
_, alive = process_tree.kill_descendants(-1)
print("still", len(alive), flush=True)
killed, alive = process_tree.kill_descendants(20)
print("then", child.pid in killed, len(killed), alive, flush=True)
print(process_tree.kill_descendants(20), process_tree.reap(), flush=True)
"""


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_descendants_are_killed_until_none_is_left_or_the_limit_is_over():
    *_, still, then, last = run_python(KILLS).stdout.splitlines()
    assert still == "still 2"
    assert then == "then True 2 []"
    assert last == "(set(), []) {}"


WITH_PARENT = """
import os, subprocess, sys, time
code = "import os, time; from harness.engine.process_tree import die_with_parent as tie;"
code += "tie(os.getppid()); print(os.getpid(), flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", code])
time.sleep(60)
"""


def test_a_process_dies_with_its_parent():
    parent = subprocess.Popen(
        [sys.executable, "-c", WITH_PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not is_alive(child))
    parent.stdout.close()


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_a_process_whose_parent_has_ended_already_ends_at_once():
    code = "from harness.engine.process_tree import die_with_parent as tie; tie(1 << 30); print(1)"
    done = run_python(code)
    assert (done.returncode, done.stdout) == (1, "")
