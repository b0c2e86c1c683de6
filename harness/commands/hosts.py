"""Run on other hosts: the options `--hosts` and `--engine ray` of `run`. No torch."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.record.run_folder import RunFolder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from harness.engine.host_connection import Address
    from harness.engine.host_pool import HostPool
    from harness.plan.machine import Machine

RAY = "ray"  # the value of --engine
ONE_HOST = frozenset({"peer_memory"})  # features that only ranks of the same host have


def machine_on(args: argparse.Namespace, detected: Machine) -> Machine:
    """Return the machine to plan for: this one, or one of hosts that are like it.

    Raises UsageError for options that do not go together, and for GPUs; InfrastructureError if no
    Ray cluster answers.
    """
    if args.engine == RAY:
        _check_ray(args, detected)
        return detected
    if args.hosts is None:
        if args.token_file is not None:
            raise UsageError("--token-file goes with --hosts LIST")
        return detected
    _check_hosts(args, detected)
    features = detected.platform.features - ONE_HOST
    return replace(detected, platform=replace(detected.platform, features=features))


def _check_hosts(args: argparse.Namespace, detected: Machine) -> None:
    """Raise UsageError unless the run can use the hosts."""
    from harness.engine.host_connection import read_token

    _check_agents(args)
    if _saves_tensors(args):
        raise UsageError("--hosts: tensors would stay on the hosts; leave out --save-tensors")
    if detected.devices:
        raise UsageError("--hosts is for CPUs so far, and this machine has GPUs; leave it out")
    if args.token_file is not None:
        read_token(args.token_file)  # before anything is written


def _check_ray(args: argparse.Namespace, detected: Machine) -> None:
    """Raise UsageError or InfrastructureError unless the run can use Ray."""
    from harness.engine import ray_cluster

    for option, value in (("--hosts", args.hosts), ("--token-file", args.token_file)):
        if value is not None:
            raise UsageError(f"--engine ray finds hosts by itself; leave out {option}")
    if _saves_tensors(args):
        raise UsageError("--engine ray: tensors would stay on the hosts; leave out --save-tensors")
    if detected.devices:
        raise UsageError("--engine ray is for CPUs so far, and this machine has GPUs; leave it out")
    ray_cluster.connect()


def slot_count(args: argparse.Namespace, local: Machine) -> int:
    """Return how many ranks may run at once: as --slots says, or as there is room for them."""
    if args.slots:
        return int(args.slots)
    if args.engine != RAY:
        return local.slots
    from harness.engine import ray_cluster

    return ray_cluster.connect().cpus


def _check_agents(args: argparse.Namespace) -> None:
    """Raise UsageError unless the options say how to reach the agents."""
    from harness.engine import slurm_agents

    if args.hosts == slurm_agents.SLURM:
        slurm_agents.node_count(os.environ)
        if args.token_file is not None:
            raise UsageError("--hosts slurm makes a token of its own; leave out --token-file")
        slurm_agents.check_srun()
        return
    addresses(args.hosts)
    if args.token_file is None:
        raise UsageError("--hosts needs --token-file FILE, with the token that the hosts have")


def _saves_tensors(args: argparse.Namespace) -> bool:
    """Return whether the run would save tensors; a resumed one keeps its first setting."""
    if args.resume is None:
        return bool(args.save_tensors)
    return RunFolder.open(args.resume).info.options.save_tensors


def addresses(text: str) -> tuple[Address, ...]:
    """Read `10.0.0.1:4000,10.0.0.2:4000`. Raises UsageError, also for one that is named twice."""
    from harness.engine.host_connection import parse_address

    read = tuple(parse_address(part.strip(), "--hosts") for part in text.split(","))
    if len(set(read)) < len(read):
        raise UsageError(f"--hosts names one host twice: {text}")
    return read


def pool_of(args: argparse.Namespace) -> AbstractContextManager[HostPool | None]:
    """Return what starts gangs on the hosts; None without any. Raises InfrastructureError."""
    if args.engine == RAY:
        from harness.engine import ray_cluster
        from harness.engine.ray_pool import RayPool

        return RayPool(ray_cluster.connect())
    if args.hosts is None:
        return nullcontext()
    from harness.engine.host_connection import read_token
    from harness.engine.host_pool import HostPool
    from harness.engine.slurm_agents import SLURM

    if args.hosts == SLURM:
        return _pool_in_slurm()
    return HostPool(addresses(args.hosts), read_token(args.token_file))


@contextmanager
def _pool_in_slurm() -> Iterator[HostPool]:
    """Yield what starts gangs on the nodes of this Slurm allocation."""
    from harness.engine import slurm_agents
    from harness.engine.host_pool import HostPool

    with slurm_agents.started() as (nodes, token), HostPool(nodes, token) as pool:
        yield pool
