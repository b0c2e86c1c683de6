"""Evidence of a hang: what was requested, and until when the gang waits for it."""

import os
import signal
import time
from types import SimpleNamespace

import pytest

from harness.engine import crash_evidence, hang_evidence
from harness.engine.hang_evidence import HangEvidence

STACK = 'Thread 0x1 (most recent call first):\n  File "a.py", line 1 in f\n'


@pytest.fixture
def link(tmp_path):
    logs = {rank: tmp_path / f"rank{rank}.log" for rank in range(2)}
    for log in logs.values():
        log.write_text(f"before: {STACK}")
    signals = []
    return SimpleNamespace(
        logs=logs,
        exits={},
        folder=tmp_path,
        rank_pids=[],
        fetch=lambda: None,
        signal=signals.append,
        signals=signals,
    )


def append(log, text):
    with log.open("a") as file:
        file.write(text)


def test_it_waits_for_the_stack_of_every_rank_and_ignores_earlier_ones(link):
    evidence = HangEvidence(link)
    assert link.signals == [signal.SIGUSR1]
    append(link.logs[0], STACK)
    assert evidence.stacks() == {0: STACK}
    assert not evidence.is_complete(time.monotonic())
    append(link.logs[1], STACK)
    assert evidence.is_complete(time.monotonic())


def test_it_waits_neither_for_a_rank_that_ended_nor_beyond_the_limit(link):
    evidence = HangEvidence(link)
    append(link.logs[0], STACK)
    assert evidence.is_complete(time.monotonic() + hang_evidence.STACK_LIMIT)
    link.exits[1] = -9
    assert evidence.is_complete(time.monotonic())


def test_it_waits_longer_for_a_flight_record_that_was_requested(link):
    pipe = crash_evidence.flight_pipe(link.folder, 0)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        evidence = HangEvidence(link)
    finally:
        os.close(reader)
    for log in link.logs.values():
        append(log, STACK)
    now = time.monotonic()
    assert not evidence.is_complete(now + hang_evidence.STACK_LIMIT)
    assert evidence.is_complete(now + hang_evidence.FLIGHT_LIMIT)
    crash_evidence.flight_file(link.folder, 0).write_text("{}")
    assert evidence.is_complete(now)
