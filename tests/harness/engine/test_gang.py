"""One gang's rules at their edges, and what they are made of: channels, evidence, process trees."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.engine import crash_evidence, device_memory, gang, process_tree, rank_bootstrap
from harness.engine.forkserver_pool import PRELOAD, GangSpec
from harness.engine.gang import Gang, GangDead, GangReady, watch
from harness.engine.messages import Channel, Done, Probe, Probed, RunTask, Status, decode, encode
from harness.engine.task_outcome import Ended, Outcome
from harness.record import run_folder
from tests.harness.engine.engine_faults import case
from tests.harness.engine.engine_tools import EXECUTOR, shared_pool, wait_for


def spec(world=2, executor=EXECUTOR):
    return GangSpec(
        world_size=world,
        device="cpu",
        transport="gloo",
        executor=executor,
        options={},
        preload=(*PRELOAD, "tests.harness.engine.engine_faults"),
    )


def until(running, kind):
    """Poll the gang until it gives a notice of this kind."""
    while True:
        watch([running])
        for notice in running.poll():
            if isinstance(notice, kind):
                return notice
            assert not isinstance(notice, GangDead), notice


def start(**options):
    running = Gang(shared_pool(), spec(**options))
    until(running, GangReady)
    return running


def test_a_gang_that_is_ended_leaves_no_process_and_no_folder():
    running = start()
    pids = [running.link.holder_pid, *running.link.rank_pids]
    assert len(pids) == 3
    running.end("enough")
    dead = until(running, GangDead)
    assert (dead.reason, dead.ready) == ("enough", True)
    assert wait_for(lambda: not set(pids) & set(process_tree.descendants(os.getpid())))
    assert not running.link.folder.exists()
    assert running.poll() == []


def test_a_holder_that_does_not_answer_is_killed_with_its_ranks(monkeypatch):
    monkeypatch.setattr(gang, "KILL_LIMIT", -gang.MEMORY_LIMIT - 4.8)  # 0.2 s in all
    running = start()
    pids = [running.link.holder_pid, *running.link.rank_pids]
    os.kill(running.link.holder_pid, signal.SIGSTOP)
    running.end("enough")
    until(running, GangDead)
    assert wait_for(lambda: not set(pids) & set(process_tree.descendants(os.getpid())))


def test_a_gang_that_is_not_ready_in_time_shows_its_stacks(monkeypatch, tmp_path):
    (tmp_path / "engine_sleeper.py").write_text("import time\ntime.sleep(300)\n")
    monkeypatch.syspath_prepend(tmp_path)
    start().abandon()  # the forkserver is up
    monkeypatch.setattr(gang, "START_LIMIT", 0.5)
    running = Gang(shared_pool(), spec(executor="engine_sleeper:run_case"))
    dead = until_dead(running)
    assert dead.reason == "not ready within 0.5 s"
    assert not dead.ready
    assert "engine_sleeper.py" in dead.log


def until_dead(running):
    while True:
        watch([running])
        for notice in running.poll():
            if isinstance(notice, GangDead):
                return notice


def test_a_probe_that_is_not_answered_ends_the_gang(monkeypatch):
    monkeypatch.setattr(gang, "PROBE_LIMIT", 0.3)
    running = start()
    send = running.link.send_to_ranks

    def stop_before_a_probe(message):
        if isinstance(message, Probe):
            os.kill(running.link.rank_pids[1], signal.SIGSTOP)
        send(message)

    monkeypatch.setattr(running.link, "send_to_ranks", stop_before_a_probe)
    running.run(case("fail").id, 30)
    outcome = until(running, Outcome)
    assert outcome.ended is Ended.ANSWERED
    reason = until_dead(running).reason  # of rank 0 as well, if it waits for the other
    assert reason.startswith("unfit after a failed case: ")
    assert reason.endswith("rank 1: no answer within 0.3 s")


def test_a_late_answer_to_an_earlier_task_is_impossible():
    """A gang that runs a task takes no other."""
    running = start(world=1)
    running.run(case("slow", world=1).id, 30)
    with pytest.raises(AssertionError, match="RUNNING"):
        running.run(case("none", world=1).id, 30)
    assert until(running, Outcome).task == case("slow", world=1).id
    running.abandon()


def test_messages_come_through_a_channel_unchanged_and_in_order():
    ours, theirs = Channel.pair()
    sent = [RunTask(task="a:1"), Status(text='"\n{'), Done(passed=False, result={"x": [1.5, None]})]
    for message in sent:
        ours.send(message)
    assert theirs.receive() == sent
    assert theirs.receive() == []
    ours.send(sent[0])
    assert theirs.wait() == sent[0]
    ours.close()
    assert theirs.wait() is None
    assert theirs.receive() == []
    assert theirs.closed
    theirs.close()


def test_half_a_message_is_kept_until_its_end_comes():
    raw, other = socket.socketpair()
    channel = Channel(other)
    line = encode(Probe(nonce=5))
    raw.sendall(line[:7])
    assert channel.receive() == []
    raw.sendall(line[7:] + encode(Probed(unfit="")))
    assert channel.receive() == [Probe(nonce=5), Probed(unfit="")]
    raw.close()
    channel.close()


def test_descriptors_come_with_the_message():
    ours, theirs = Channel.pair()
    reading, writing = os.pipe()
    ours.send(RunTask(task="x" * 100_000), [writing])
    os.close(writing)
    assert len(theirs.wait().task) == 100_000
    (fd,) = theirs.fds
    os.write(fd, b"through")
    assert os.read(reading, 10) == b"through"
    for number in (fd, reading):
        os.close(number)
    ours.close()
    theirs.close()


def test_a_line_that_is_no_message_is_refused():
    with pytest.raises(ValueError, match="unknown message"):
        decode(b'{"kind": "Nonsense"}')


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


def test_log_names_are_short_enough_and_differ():
    long = [f"{'x' * 300}{i}" for i in (1, 2)]
    names = [run_folder.log_name(name, 1) for name in long]
    assert len(set(names)) == 2
    assert max(map(len, names)) < 200
    assert run_folder.log_name("m:1", 1) == "m:1.log"
    assert run_folder.log_name("m:1", 2) == "m:1.2.log"


def test_descendants_are_found_through_every_level():
    code = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    found = wait_for(lambda: len(below := process_tree.descendants(child.pid)) == 1 and below)
    assert found
    assert set(found) < set(process_tree.descendants(os.getpid()))
    os.kill(found[0], signal.SIGKILL)
    child.kill()
    child.wait()


def test_memory_of_dead_ranks_is_waited_for_within_a_limit(monkeypatch):
    readings = iter([[9 << 30], [9 << 30], [1 << 30]])
    monkeypatch.setattr(device_memory, "used", lambda: next(readings))
    assert 0.03 < device_memory.wait_until_free([1 << 30], 5.0) < 1.0
    monkeypatch.setattr(device_memory, "used", lambda: [9 << 30])
    start = time.monotonic()
    assert device_memory.wait_until_free([1 << 30], 0.1) >= 0.1
    assert time.monotonic() - start < 1.0
    assert device_memory.wait_until_free([], 5.0) < 0.01


def test_the_controllers_side_imports_no_torch():
    modules = (
        "scheduler, gang, gang_channels, forkserver_pool, guardian, rank_bootstrap, task_outcome"
    )
    code = (
        f"import sys; from harness.engine import {modules}, crash_evidence;"
        "from harness.testing import parallel_launch; print('torch' in sys.modules, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(rank_bootstrap.__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    flag, *loaded = done.stdout.split()
    assert flag == "False"
    forbidden = {"triton", "numpy", "harness.worker", "harness.execute", "harness.checks.output"}
    assert not forbidden & set(loaded)
