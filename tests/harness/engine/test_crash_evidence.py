"""Evidence of a crash: how a process ended, its stack, the ends of its log, flight records."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from harness.engine import crash_evidence


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended by itself with exit code 0"),
        (7, "ended by itself with exit code 7"),
        (-9, "ended by SIGKILL"),
        (-200, "ended by signal 200"),
    ],
)
def test_ends_of_processes_in_words(code, words):
    assert crash_evidence.how_ended(code) == words


def test_a_stopped_process_is_known_and_a_sleeping_or_absent_one_is_not():
    process = subprocess.Popen(["/bin/sleep", "60"])
    try:
        assert crash_evidence.blocked_state(process.pid) == ""
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        words = "its process is stopped, as by SIGSTOP"
        assert crash_evidence.blocked_state(process.pid) == words
    finally:
        process.kill()
        process.wait()
    assert crash_evidence.blocked_state(process.pid) == ""


DUMP = """noise
Thread 0x01 (most recent call first):
  File "/y/harness/worker.py", line 1 in _record_flight
  File "/lib/threading.py", line 1 in run

Current thread 0x02 (most recent call first):
  File "/x/inner.py", line 3 in deep
  File "/x/case.py", line 2 in run_case
  File "/y/harness/worker.py", line 9 in main
  File "/y/harness/engine/rank_bootstrap.py", line 8 in hold
"""


def test_the_stack_shown_is_the_main_threads_down_to_the_worker():
    assert crash_evidence.has_stack(DUMP)
    frames = [line.strip() for line in DUMP.splitlines() if "/x/" in line]
    assert crash_evidence.main_stack(DUMP).splitlines() == [f"    {frame}" for frame in frames]
    assert not crash_evidence.has_stack("noise")
    assert crash_evidence.main_stack("noise") == ""


def test_a_very_long_log_loses_its_middle_only(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"first\n" + b"." * (1 << 20) + b"\nlast")
    text = crash_evidence.read(log)
    assert text.startswith("first\n")
    assert text.endswith("\nlast")
    assert "bytes left out" in text
    assert len(text) < 1 << 20
    assert crash_evidence.read(tmp_path / "none") == ""


def test_flight_records_are_asked_for_and_kept(tmp_path):
    folder, target = tmp_path / "gang", tmp_path / "logs"
    for path in (folder, target):
        path.mkdir()
    for rank in (0, 1):
        os.mkfifo(crash_evidence.flight_pipe(folder, rank))
    reader = os.open(crash_evidence.flight_pipe(folder, 1), os.O_RDONLY | os.O_NONBLOCK)
    assert crash_evidence.ask_for_flights(folder) == 1, "nobody reads rank 0's pipe"
    assert os.read(reader, 10) == b"1"
    os.close(reader)
    record = crash_evidence.flight_file(folder, 1)
    record.write_text("{}")
    assert crash_evidence.flights(folder) == [record]
    assert crash_evidence.keep_flights(folder, target, "case") == ["case.flight1.json"]
    assert (target / "case.flight1.json").read_text() == "{}"
