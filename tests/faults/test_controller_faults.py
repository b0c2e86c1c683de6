"""Faults around a real run of the command line: interrupts, a taken port, a folder taken away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.faults.hanging_members import SLEEP
from tests.harness.engine.engine_tools import marked, wait_for

ROOT = Path(__file__).parents[2]
CASE = "m:2-n:64-k:64-e:4-topk:2-experts:torch_loop-dp:2-ep"
HANGING = CASE.replace("torch_loop", "tests.faults.hanging_members:Hangs")


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@pytest.fixture
def start(tmp_path):
    """Start `python -m harness run`; afterwards end what it started, and say if that was needed."""
    mark = f"CAMPAIGN={uuid.uuid4()}"
    processes = []

    def run(*arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", "run", *arguments, "--out", str(tmp_path / "run")],
            env={**os.environ, **environment, **dict([mark.split("=")]), "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process, mark

    yield run
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.2])
def test_ctrl_c_twice_leaves_no_process_and_a_folder_that_can_be_resumed(start, tmp_path, pause):
    process, mark = start("--case", HANGING, "--time-limit", "300")

    def children():
        return [pid for pid in marked(mark) if SLEEP in command_line(pid)]

    assert wait_for(lambda: len(children()) == 2, 60)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the foreground group
        time.sleep(pause)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert wait_for(lambda: not marked(mark)), [command_line(pid) for pid in marked(mark)]
    assert f"to resume: python -m harness run --resume {tmp_path / 'run'}" in out, out
    assert "Traceback" not in out


def test_a_port_that_is_taken_hinders_no_run(start):
    """Ranks meet in a file: no port of the environment is used."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process, _ = start("--case", CASE, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert "cases=1 passed=1 " in out


def test_a_folder_that_cannot_be_made_is_a_usage_error_before_any_process(start, tmp_path):
    (tmp_path / "run").write_text("in the way")
    process, mark = start("--case", CASE)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert out.startswith(f"cannot make the run folder '{tmp_path / 'run'}': ")
    assert marked(mark) == []
