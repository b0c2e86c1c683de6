"""A real cluster: runs, a worker and a node that are killed, what is left. Without Ray, refusals.

Its two nodes with CPUs are two sets of processes of Ray on this machine, each with an address.

`make test-ray` installs Ray; where it is missing, only the tests of its absence run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from harness import cli
from harness.engine import ray_cluster
from harness.record.events import CaseStarted
from harness.record.run_folder import RunFolder, last_results
from tests.harness.engine.engine_tools import marked, wait_for

RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not RAY, reason="the package ray is missing: make test-ray")
ROOT = Path(__file__).parents[3]
CASE = "m:4-n:64-k:64-e:4-topk:2-experts:torch_loop-dp:2-ep"
HANGING = CASE.replace("torch_loop", "tests.faults.hanging_members:Hangs")
ONE = "m:4-n:64-k:64-e:4-topk:2-experts:torch_loop"
# Until both nodes with CPUs have joined.
WAIT = """
import ray, sys, time
ray.init(log_to_driver=False)
while ray.cluster_resources().get("CPU", 0) < int(sys.argv[1]):
    time.sleep(0.1)
"""
RUN = ["run", "--engine", "ray", "--case"]


@pytest.fixture(scope="module")
def cluster():
    """A head, two nodes with two CPUs each, and the environment of a controller."""
    mark, folder = str(uuid.uuid4()), Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",  # it would write a token into the user's home
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TEST_MARK": mark,
        "RAY_ADDRESS": f"127.0.0.1:{port}",
    }
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    processes = [ray_start(environment, "--num-cpus=0", "--node-ip-address=127.0.0.1", *head)]
    try:
        assert wait_for(lambda: is_listening(port), 120)
        # One after the other: of two that start at once, one may end, unknown to Ray.
        for ip, cpus in (("127.0.0.2", "2"), ("127.0.0.3", "4")):
            node = ["--num-cpus=2", f"--node-ip-address={ip}", f"--address=127.0.0.1:{port}"]
            processes.append(ray_start(environment, *node))
            wait = [sys.executable, "-c", WAIT, cpus]
            subprocess.run(wait, env=environment, check=True, timeout=120)
        yield environment
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(60)
        for pid in (wait_for(lambda: not marked(mark)) and []) or marked(mark):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def ray_start(environment, *options):
    """Start Ray's processes of one node."""
    return subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options],
        env={**environment, "RAY_ADDRESS": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def is_listening(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def start(environment, log, *arguments):
    """Start a command; log: the file that it writes to."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "harness", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def of_ranks(environment):
    """Processes of the harness that Ray's workers have started: forkservers, holders, ranks."""
    return with_words(environment, b"harness.engine")


def agents(environment):
    """Ray's workers that hold an agent."""
    return with_words(environment, b"RayAgent")


def with_words(environment, words):
    """Processes of the cluster that have these words in their command lines."""
    pids = []
    for pid in marked(f"RAY_TEST_MARK={environment['RAY_TEST_MARK']}"):
        with contextlib.suppress(OSError):  # it has just ended
            if words in Path(f"/proc/{pid}/cmdline").read_bytes():
                pids.append(pid)
    return pids


def node_of(agent):
    """The raylet of an agent's node: Ray's workers are its children."""
    return int(Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[1])


def results(folder):
    return last_results(RunFolder.open(folder).events())


@needs_ray
def test_a_run_on_ray_has_the_results_of_any_other_and_leaves_nothing(cluster, tmp_path):
    log = tmp_path / "log"
    run = start(cluster, log, *RUN, CASE, ONE, "--out", str(tmp_path / "ray"))
    assert run.wait(200) == 0, log.read_text()
    assert cli.main(["run", "--case", CASE, ONE, "--out", str(tmp_path / "local")]) == 0
    here, there = results(tmp_path / "local"), results(tmp_path / "ray")
    assert here.keys() == there.keys()
    for case in here:
        assert there[case].verdict is here[case].verdict
        assert there[case].ranks.keys() == here[case].ranks.keys()
    assert cli.main(["diff", str(tmp_path / "local"), str(tmp_path / "ray")]) == 0
    assert wait_for(lambda: not agents(cluster) and not of_ranks(cluster)), of_ranks(cluster)


def has_begun(path):
    """Whether the case that hangs has begun."""
    return (path / "run.json").exists() and any(
        isinstance(event, CaseStarted) and event.case_id == HANGING
        for event in RunFolder.open(path).events()
    )


@needs_ray
def test_a_worker_that_is_killed_costs_its_case_and_the_run_goes_on(cluster, tmp_path):
    log, limits = tmp_path / "log", ["--time-limit", "100", "--slots", "2"]
    run = start(cluster, log, *RUN, HANGING, CASE, *limits, "--out", str(tmp_path / "run"))
    assert wait_for(lambda: has_begun(tmp_path / "run"), 200), log.read_text()
    (agent,) = agents(cluster)
    os.kill(agent, signal.SIGKILL)
    assert run.wait(200) == 75, log.read_text()
    ended = results(tmp_path / "run")
    assert (str(ended[HANGING].verdict), str(ended[CASE].verdict)) == ("infra", "passed")
    assert "with ranks 0-1 is gone" in "\n".join(ended[HANGING].messages)
    assert wait_for(lambda: not agents(cluster) and not of_ranks(cluster)), of_ranks(cluster)


@needs_ray
def test_a_cluster_that_does_not_answer_is_the_machines_fault(tmp_path):
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1", "RAY_AUTH_MODE": "disabled"}
    run = start(environment, tmp_path / "log", *RUN, CASE, "--out", str(tmp_path / "run"))
    assert run.wait(120) == 75
    said = (tmp_path / "log").read_text()
    assert "no Ray cluster answers at '127.0.0.1:1'; start one with `ray start --head`" in said
    assert not (tmp_path / "run").exists()


@needs_ray
def test_gangs_lie_on_both_nodes_and_one_that_dies_costs_the_case_that_ran_there(cluster, tmp_path):
    """The last test with the cluster, which has one node less afterwards."""
    log, out = tmp_path / "log", tmp_path / "run"
    healthy = [f"{CASE}-seed:{seed}" for seed in range(1, 9)]
    cases = [healthy[0], HANGING, *healthy[1:]]
    run = start(cluster, log, *RUN, *cases, "--time-limit", "200", "--out", str(out))
    nodes = set()

    def is_alone():  # the gang of the case that hangs: the other one has run all that it can
        now = agents(cluster)
        nodes.update(map(node_of, now))
        return has_begun(out) and len(nodes) == 2 and len(now) == 1

    assert wait_for(is_alone, 200), log.read_text()
    (agent,) = agents(cluster)
    os.kill(node_of(agent), signal.SIGKILL)
    assert run.wait(200) == 75, log.read_text()
    ended = results(out)
    assert "with ranks 0-1 is gone" in "\n".join(ended.pop(HANGING).messages)
    assert {str(result.verdict) for result in ended.values()} == {"passed"}
    assert sorted(ended) == sorted(healthy)
    assert wait_for(lambda: not agents(cluster) and not of_ranks(cluster)), of_ranks(cluster)


def test_without_ray_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    assert cli.main([*RUN, CASE, "--out", str(tmp_path / "run")]) == 3
    error = capsys.readouterr().err
    assert error.startswith("--engine ray needs the package ray: pip install 'moe-harness[ray]'")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_cluster_without_cpus_is_of_no_use(monkeypatch):
    nodes = [{"Alive": True, "Resources": {"GPU": 1}}, {"Alive": False, "Resources": {"CPU": 8}}]

    class Ray:
        is_initialized = staticmethod(lambda: True)
        nodes = staticmethod(lambda: list(nodes))

    monkeypatch.setitem(sys.modules, "ray", Ray)
    with pytest.raises(ray_cluster.InfrastructureError, match="no node of the Ray cluster has a"):
        ray_cluster.connect()
    nodes += [{"Alive": True, "Resources": {"CPU": n}} for n in (4.0, 16.0)]
    assert ray_cluster.connect() == ray_cluster.Cluster(cpus=20, largest=16)
