"""Stacks by py-spy: asked for each rank, kept in the case's log, and never waited for too long.

The tests put a program of their own in py-spy's place; the last one runs the real one, if there is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from harness.engine import hang_evidence
from harness.engine.native_stacks import NativeStacks
from tests.harness.engine.engine_faults import case
from tests.harness.engine.engine_tools import events_of, plan, results, wait_for


@pytest.fixture
def py_spy(tmp_path, monkeypatch):
    """Put a shell script in py-spy's place."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def script(body: str) -> None:
        (folder / "py-spy").write_text(f"#!/bin/sh\n{body}\n")
        (folder / "py-spy").chmod(0o755)

    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return script


def texts_of(pids, folder) -> dict[int, str]:
    stacks = NativeStacks(pids, folder)
    assert wait_for(stacks.is_complete)
    return stacks.end()


def test_every_rank_is_asked_for_frames_of_c_too(py_spy, tmp_path):
    py_spy('echo "$@"')
    expected = {rank: f"dump --native --pid {pid}\n" for rank, pid in enumerate((11, 12))}
    assert texts_of([11, 12], tmp_path) == expected


def test_its_error_is_kept(py_spy, tmp_path):
    py_spy("echo Permission denied >&2; exit 1")
    assert texts_of([11], tmp_path) == {0: "Permission denied\n"}


def test_without_the_program_nothing_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert texts_of([11, 12], tmp_path) == {}


def test_a_program_that_hangs_is_ended(py_spy, tmp_path):
    py_spy("echo begun; exec sleep 600")
    stacks = NativeStacks([11], tmp_path)
    assert wait_for((tmp_path / "native0.txt").read_text)
    assert not stacks.is_complete()
    start = time.monotonic()
    assert stacks.end() == {0: "begun\n"}
    assert time.monotonic() - start < 600  # the program would sleep so long
    assert stacks.is_complete()


def test_the_log_of_a_case_that_hangs_has_them_and_its_verdict_does_not_wait(py_spy, tmp_path):
    py_spy('echo "frames of $4"; exec sleep 600')
    events = events_of(plan(case("ignore_sigterm"), limit=1.0), tmp_path)
    (result,) = results(events).values()
    log = (tmp_path / "logs" / result.log).read_text()
    for rank in (0, 1):
        assert f"==== rank {rank}, stack by py-spy ====\nframes of " in log
    assert 1.0 + hang_evidence.NATIVE_LIMIT <= result.seconds < 600


@pytest.mark.skipif(shutil.which("py-spy") is None, reason="py-spy is not installed")
def test_the_real_one_shows_frames_of_c(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        time.sleep(1)
        (text,) = texts_of([process.pid], tmp_path).values()
    finally:
        process.kill()
        process.wait()
    assert "time_sleep" in text or "denied" in text
