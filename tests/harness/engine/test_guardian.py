"""Whatever happens to the controller, nothing that it started stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.harness.engine.engine_faults import SLEEP
from tests.harness.engine.engine_tools import marked, wait_for

CONTROLLER = Path(__file__).parent / "engine_controller.py"


def grandchildren(mark):
    """Those of the marked processes that left their session and their parent."""
    return [pid for pid in marked(mark) if SLEEP in command_line(pid)]


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.fixture
def controller(tmp_path):
    """Starts a controller whose ranks have a setsid grandchild each and hang; cleans up after."""
    mark = f"ENGINE_TEST={uuid.uuid4()}"
    started = []

    def start(*arguments):
        temporary = tmp_path / "tmp"
        temporary.mkdir()
        process = subprocess.Popen(
            [sys.executable, str(CONTROLLER), str(tmp_path), *arguments],
            env={**os.environ, **dict([mark.split("=")]), "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline() == b"GangStarted\n"
        assert len(wait_for(lambda: len(grandchildren(mark)) == 2 and grandchildren(mark))) == 2
        # controller, guardian, forkserver, holder, two ranks, two grandchildren
        assert len(marked(mark)) >= 8
        return process, mark

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


def test_kill_9_of_the_controller_leaves_no_process(controller, tmp_path):
    process, mark = controller()
    process.kill()
    process.wait()
    assert wait_for(lambda: not marked(mark)), [command_line(pid) for pid in marked(mark)]
    assert not list((tmp_path / "tmp").glob("harness-*")), "the private folder stayed"


def test_ctrl_c_leaves_no_process(controller):
    process, mark = controller()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the foreground group
    assert process.wait(30) == 130
    assert marked(mark) == []


def test_a_forked_child_that_holds_the_channels_open_saves_nobody(controller):
    process, mark = controller("fork")
    process.kill()
    process.wait()
    holding = wait_for(lambda: len(marked(mark)) == 1 and marked(mark))
    assert len(holding) == 1, [command_line(pid) for pid in marked(mark)]
    assert str(CONTROLLER) in command_line(holding[0])


def test_kill_9_of_the_guardian_too_leaves_no_rank(controller):
    _, mark = controller()
    guardian = [pid for pid in marked(mark) if "harness.engine.guardian" in command_line(pid)]
    assert len(guardian) == 1
    os.kill(guardian[0], signal.SIGKILL)

    def ranks():  # forkserver, holder and ranks are forks of one process with one command line
        return [pid for pid in marked(mark) if "harness.engine.forkserver" in command_line(pid)]

    assert wait_for(lambda: not ranks()), ranks()
