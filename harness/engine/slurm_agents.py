"""Start one agent on each node of a Slurm allocation, by `srun`. Torch-free.

The agents get the token of the run on their standard input, listen on their node's address at a
port that is free, print it, and end with the run. No node's name is looked up here: `srun` knows
the nodes of the allocation.
"""

from __future__ import annotations

import os
import re
import secrets
import selectors
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.engine.host_connection import Address, parse_address
from harness.errors import InfrastructureError, UsageError, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SLURM = "slurm"  # the value of --hosts, and of an agent's --listen
NODES, NODE = "SLURM_JOB_NUM_NODES", "SLURMD_NODENAME"
START_LIMIT = 120.0  # seconds until all agents listen
_END_LIMIT = 10.0  # seconds for srun to end them
_LISTENING = re.compile(r"listening on (\d[\d.]*:\d+)")


def node_count(environment: Mapping[str, str]) -> int:
    """Return the number of nodes of the allocation. Raises UsageError outside of one."""
    text = environment.get(NODES, "")
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        rule = f"needs a Slurm allocation, in which {NODES} is a number"
        raise UsageError(f"--hosts slurm {rule}; it is {text!r}. Start it from sbatch or salloc")
    return int(text)


def own_address(environment: Mapping[str, str]) -> Address:
    """Return the address of this node, with port 0. Raises UsageError, InfrastructureError."""
    name = environment.get(NODE)
    if not name:
        raise UsageError(f"--listen slurm needs {NODE}, which srun sets; give an address instead")
    try:
        return Address(ip=socket.gethostbyname(name), port=0)
    except OSError as error:
        raise InfrastructureError(f"node {name!r} has no address: {reason_of(error)}") from error


def check_srun() -> None:
    """Raise InfrastructureError where there is no `srun`, before anything is written."""
    if shutil.which("srun") is None:
        raise InfrastructureError("srun cannot be started: it is not on PATH")


@contextmanager
def started() -> Iterator[tuple[tuple[Address, ...], bytes]]:
    """Yield the agents' addresses and token; end the agents on exit.

    Raises UsageError outside of an allocation, InfrastructureError if an agent does not start.
    """
    count, token = node_count(os.environ), secrets.token_hex(32)
    process = _srun(count)
    try:
        assert process.stdin is not None
        process.stdin.write(f"{token}\n".encode())
        process.stdin.close()
        yield _addresses(process, count), token.encode()
    except BrokenPipeError as error:
        raise InfrastructureError(f"srun ended at once with {process.wait()}") from error
    finally:
        _end(process)


def _srun(count: int) -> subprocess.Popen[bytes]:
    """Start the agents. In a session of its own: Ctrl-C ends the run, which ends the agents."""
    agent = [sys.executable, "-m", "harness", "host", "--listen", SLURM, "--token-file", "-"]
    srun = ["srun", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1"]
    try:
        return subprocess.Popen(
            [*srun, *agent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise InfrastructureError(f"srun cannot be started: {reason_of(error)}") from error


def _addresses(process: subprocess.Popen[bytes], count: int) -> tuple[Address, ...]:
    """Return where the agents listen, by their addresses in order, once all have said so."""
    assert process.stdout is not None
    until, text = time.monotonic() + START_LIMIT, ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(listening := _LISTENING.findall(text)) < count or not text.endswith("\n"):
            ready = selector.select(until - time.monotonic())
            data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                reason = "srun ended" if ready else f"{START_LIMIT:g} s are over"
                raise InfrastructureError(
                    f"{len(listening)} of {count} agents listen, and {reason}"
                )
            text += data.decode(errors="replace")
    return tuple(parse_address(address, "srun") for address in sorted(listening))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End srun, which ends its tasks."""
    process.terminate()
    try:
        process.wait(_END_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
