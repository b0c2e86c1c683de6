"""`run --hosts`: wrong use, what is planned, and hosts that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.commands.hosts import machine_on, slot_count
from harness.commands.options import parse
from harness.engine import ray_cluster
from harness.errors import UsageError
from harness.plan.machine import planned_for
from tests.harness.fake_engine import BASE

RUN = ["run", "--case", BASE]
RAY = ["--engine", "ray"]
HOSTS = ["--hosts", "127.0.0.1:1,127.0.0.2:1", "--token-file", "token"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--token-file", "x"], "--token-file goes with --hosts LIST"),
        (HOSTS[:2], "--hosts needs --token-file FILE"),
        ([*HOSTS, "--save-tensors"], "leave out --save-tensors"),
        (["--hosts", "node1", *HOSTS[2:]], "--hosts: give an IPv4 address and a port"),
        (["--hosts", "1.2.3.4:5,1.2.3.4:5", *HOSTS[2:]], "--hosts names one host twice"),
        (HOSTS, "--token-file 'token': No such file or directory; make one with: (umask 077;"),
        (["--engine", "rya"], "invalid choice: 'rya' (choose from 'local', 'ray')"),
        ([*RAY, *HOSTS], "--engine ray finds hosts by itself; leave out --hosts"),
        ([*RAY, "--token-file", "x"], "--engine ray finds hosts by itself; leave out --token-file"),
        ([*RAY, "--save-tensors"], "--engine ray: tensors would stay on the hosts; leave out"),
    ],
)
def test_wrong_use_is_one_clear_line_and_nothing_is_written(engine, capsys, options, message):
    assert cli.main([*RUN, *options]) == 3
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_hosts_share_no_memory_and_have_no_gpus_so_far(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("token").touch(mode=0o600)
    Path("token").write_text("t" * 32)
    args = parse([*RUN, *HOSTS])
    cpu = planned_for("cpu")
    features = machine_on(args, cpu).platform.features
    assert cpu.platform.features - features == {"peer_memory"}
    assert machine_on(parse(RUN), cpu) == cpu
    with pytest.raises(UsageError, match="--hosts is for CPUs so far"):
        machine_on(args, planned_for("cuda_sm90"))
    with pytest.raises(UsageError, match="--engine ray is for CPUs so far"):
        machine_on(parse([*RUN, *RAY]), planned_for("cuda_sm90"))


def test_a_run_on_ray_has_as_many_slots_as_the_cluster_has_cpus(monkeypatch):
    cluster = ray_cluster.Cluster(cpus=12, largest=4)
    monkeypatch.setattr(ray_cluster, "connect", lambda: cluster)
    cpu = planned_for("cpu")
    assert machine_on(parse([*RUN, *RAY]), cpu) == cpu
    assert slot_count(parse([*RUN, *RAY]), cpu) == 12
    assert slot_count(parse([*RUN, *RAY, "--slots", "3"]), cpu) == 3
    assert slot_count(parse(RUN), cpu) == cpu.slots


def test_a_host_that_is_not_there_is_the_machines_fault_and_the_run_can_go_on(engine, capsys):
    Path("token").touch(mode=0o600)
    Path("token").write_text("t" * 32)
    assert cli.main([*RUN, *HOSTS, "--out", "here"]) == 75
    shown = capsys.readouterr()
    assert "host 127.0.0.1:1 does not answer" in shown.err
    assert "to resume: python -m harness run --resume here" in shown.out
    assert engine.calls == []


def test_a_run_that_saves_tensors_is_not_resumed_on_hosts(engine, capsys):
    assert cli.main([*RUN, "--save-tensors", "--out", "here"]) == 0
    assert cli.main(["run", "--resume", "here", *HOSTS]) == 3
    assert "--hosts: tensors would stay on the hosts" in capsys.readouterr().err
