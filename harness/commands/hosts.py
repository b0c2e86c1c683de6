"""Run on several hosts: the options of `run --hosts`. No torch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from harness.engine.host_connection import Address
    from harness.engine.host_pool import HostPool
    from harness.plan.machine import Machine

ONE_HOST = frozenset({"peer_memory"})  # features that only ranks of the same host have


def machine_on(args: argparse.Namespace, detected: Machine) -> Machine:
    """Return the machine to plan for: this one, or one of hosts that are like it.

    Raises UsageError for options that do not go together, and for GPUs.
    """
    if args.hosts is None:
        if args.token_file is not None:
            raise UsageError("--token-file goes with --hosts LIST")
        return detected
    addresses(args.hosts)
    if args.token_file is None:
        raise UsageError("--hosts needs --token-file FILE, with the token that the hosts have")
    if args.save_tensors:
        raise UsageError("--hosts: tensors would stay on the hosts; leave out --save-tensors")
    if detected.devices:
        raise UsageError("--hosts is for CPUs so far, and this machine has GPUs; leave it out")
    features = detected.platform.features - ONE_HOST
    return replace(detected, platform=replace(detected.platform, features=features))


def addresses(text: str) -> tuple[Address, ...]:
    """Read `10.0.0.1:4000,10.0.0.2:4000`. Raises UsageError, also for one that is named twice."""
    from harness.engine.host_connection import parse_address

    read = tuple(parse_address(part.strip(), "--hosts") for part in text.split(","))
    if len(set(read)) < len(read):
        raise UsageError(f"--hosts names one host twice: {text}")
    return read


def pool_of(args: argparse.Namespace) -> AbstractContextManager[HostPool | None]:
    """Return what starts gangs on the hosts; None without any. Raises InfrastructureError."""
    if getattr(args, "hosts", None) is None:
        return nullcontext()
    from harness.engine.host_connection import read_token
    from harness.engine.host_pool import HostPool

    return HostPool(addresses(args.hosts), read_token(args.token_file))
