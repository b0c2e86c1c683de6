"""Use a Ray cluster: connect to it, and reserve room for gangs. Torch-free.

A place is a placement group of one bundle, so of CPUs of one node, with an agent in it. When and
where it is placed is Ray's decision.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engine.host_connection import Address
from harness.engine.ray_agent import RayAgent
from harness.engine.remote_hosts import RemoteHost
from harness.errors import InfrastructureError, UsageError

CONNECT_LIMIT = 5.0  # seconds until the head of a cluster answers
END_LIMIT = 20.0  # seconds for an agent to end its processes
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """CPUs that Ray schedules: of all nodes, and of the one that has most."""

    cpus: int
    largest: int


def connect() -> Cluster:
    """Connect this process to the cluster at RAY_ADDRESS, or to the one on this machine.

    None is started: Ray would listen on all networks. Raises UsageError if Ray is not installed,
    InfrastructureError if no cluster answers or none of its nodes has a CPU.
    """
    try:
        import ray
    except ImportError as error:
        install = "pip install 'moe-harness[ray]', or make setup EXTRAS=ray"
        raise UsageError(f"--engine ray needs the package ray: {install}") from error
    if not ray.is_initialized():
        _initialize(ray)
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    cluster = Cluster(cpus=int(sum(nodes)), largest=int(max(nodes, default=0)))
    if cluster.largest < 1:
        raise InfrastructureError("--engine ray: no node of the Ray cluster has a CPU")
    return cluster


def disconnect() -> None:
    """Leave the cluster, which frees what this process still has there."""
    import ray

    ray.shutdown()


def _initialize(ray: Any) -> None:
    """Connect, and keep this process's handler of SIGTERM, which Ray replaces."""
    address = os.environ.get("RAY_ADDRESS") or "auto"
    paths = [str(_ROOT), str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _check_answers(address)
        ray.init(
            address=address,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
            log_to_driver=False,
            logging_level="error",
        )
    except (OSError, RuntimeError, ValueError) as error:
        start = "start one with `ray start --head`, or set RAY_ADDRESS"
        raise InfrastructureError(
            f"--engine ray: no Ray cluster answers at {address!r}; {start}"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)


def _check_answers(address: str) -> None:
    """Raise OSError or ValueError unless something listens at an address, or it is `auto`.

    Ray itself would try for minutes.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_LIMIT).close()


class RayPlace:
    """Room for one gang on one node, once Ray has found it."""

    def __init__(self, cpus: int) -> None:
        """Ask Ray for so many CPUs of one node, and for an agent there."""
        import ray
        from ray.util import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self.cpus = cpus
        self.host: RemoteHost | None = None
        self._group = placement_group([{"CPU": cpus}], strategy="STRICT_PACK")
        self._token = secrets.token_hex(32)
        where = PlacementGroupSchedulingStrategy(placement_group=self._group)
        agent = ray.remote(RayAgent).options(num_cpus=0, scheduling_strategy=where)
        self._agent = agent.remote()
        self._listening = self._agent.listen.remote(self._token)
        self._serving = self._agent.serve.remote()

    def is_ready(self) -> bool:
        """Return whether the agent listens, or has failed."""
        import ray

        return bool(ray.wait([self._listening], timeout=0)[0])

    def connect(self) -> None:
        """Connect to the agent once it is ready. Raises InfrastructureError."""
        import ray

        try:
            ip, port = ray.get(self._listening)
        except ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[-1]
            raise InfrastructureError(f"Ray could not start an agent: {why}") from error
        self.host = RemoteHost(Address(ip=ip, port=port), self._token.encode())

    def is_gone(self) -> bool:
        """Return whether the agent, or its node, has disappeared since it was connected to."""
        if self.host is None:
            return True
        self.host.control.receive()  # an agent says nothing unasked: it reads the end, if any
        return self.host.control.closed

    def lose(self) -> None:
        """Close the connection to an agent that does not do what it is asked to."""
        if self.host is not None:
            self.host.control.close()

    def close(self) -> None:
        """Give the room back, once the agent, if it is there, has ended its processes."""
        import ray
        from ray.util import remove_placement_group

        is_there = not self.is_gone()
        self.lose()
        if is_there:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.wait([self._serving], timeout=END_LIMIT)
        ray.kill(self._agent)
        remove_placement_group(self._group)
