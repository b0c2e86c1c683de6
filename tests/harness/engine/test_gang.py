"""One gang's rules at their edges: its end, its start, its probe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.engine import gang, process_tree, rank_bootstrap
from harness.engine.gang import Gang
from harness.engine.gang_notices import GangDead, GangReady, watch
from harness.engine.gang_spec import PRELOAD, GangSpec
from harness.engine.messages import Probe
from harness.engine.task_outcome import Ended, Outcome
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
