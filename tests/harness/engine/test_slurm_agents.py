"""Agents in a Slurm allocation: started by a stand-in for srun, they serve a real run and end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.engine import slurm_agents
from harness.engine.host_connection import input_token
from harness.errors import UsageError
from harness.record.events import GangStarted
from harness.record.run_folder import RunFolder

CASE = "m:4-n:64-k:64-e:4-topk:2-experts:torch_loop-dp:2-ep"
RUN = ["run", "--case", CASE, "--hosts", "slurm"]


@pytest.fixture
def allocation(tmp_path, monkeypatch):
    """Two nodes, and a function that makes `srun` this Python text."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("FAKE_SRUN_TASKS", str(tmp_path / "tasks"))

    def put(text):
        (programs / "srun").write_text(f"#!{sys.executable}\n{text}")
        (programs / "srun").chmod(0o755)

    return put


def test_a_gang_runs_on_agents_that_srun_has_started(allocation, tmp_path):
    allocation(Path(__file__).with_name("fake_srun.py").read_text())
    assert cli.main([*RUN, "--out", str(tmp_path / "run")]) == 0
    events = RunFolder.open(tmp_path / "run").events()
    assert [event.world_size for event in events if isinstance(event, GangStarted)] == [2]
    tasks = (tmp_path / "tasks").read_text().split()
    assert len(tasks) == 2
    assert not [pid for pid in tasks if Path(f"/proc/{pid}").exists()]


def test_an_srun_that_ends_early_is_the_machines_fault(allocation, tmp_path, capsys):
    allocation("raise SystemExit(1)")
    assert cli.main([*RUN, "--out", str(tmp_path / "run")]) == 75
    said = capsys.readouterr()
    assert "agents listen, and srun ended" in said.err or "srun ended at once with 1" in said.err
    assert "to resume: python -m harness run --resume" in said.out


def test_agents_that_do_not_come_up_are_not_waited_for_forever(allocation, monkeypatch):
    allocation("import time; print('listening on 1.2.3.4:5', flush=True); time.sleep(60)")
    monkeypatch.setattr(slurm_agents, "START_LIMIT", 0.5)
    with (
        pytest.raises(slurm_agents.InfrastructureError, match=r"1 of 2 agents listen, and 0\.5 s"),
        slurm_agents.started(),
    ):
        pass


def test_a_machine_without_srun_is_told_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    with (
        pytest.raises(slurm_agents.InfrastructureError, match="srun cannot be started: No such"),
        slurm_agents.started(),
    ):
        pass
    assert cli.main([*RUN, "--out", str(tmp_path / "run")]) == 75
    assert capsys.readouterr().err == "srun cannot be started: it is not on PATH\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("nodes", ["", "0", "two"])
def test_hosts_slurm_needs_an_allocation(nodes, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", nodes)
    assert cli.main(RUN) == 3
    error = capsys.readouterr().err
    assert f"in which SLURM_JOB_NUM_NODES is a number; it is {nodes!r}. Start it from" in error


def test_a_token_is_made_for_slurm(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert cli.main([*RUN, "--token-file", "token"]) == 3
    assert "--hosts slurm makes a token of its own; leave out --token-file" in (
        capsys.readouterr().err
    )


def test_an_agent_by_slurm_needs_its_nodes_name(tmp_path):
    with pytest.raises(UsageError, match="--listen slurm needs SLURMD_NODENAME"):
        slurm_agents.own_address({})
    assert slurm_agents.own_address({"SLURMD_NODENAME": "localhost"}).ip == "127.0.0.1"
    (tmp_path / "input").write_text("short\n")
    with (tmp_path / "input").open() as file, pytest.raises(UsageError, match="has 5 bytes, too"):
        input_token(file)
