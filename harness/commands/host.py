"""Run `host`: let runs on other machines start ranks on this one. No torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.launch import code_of, terminable
from harness.engine.forkserver_pool import check_torch
from harness.engine.host_agent import Agent
from harness.engine.host_connection import (
    Address,
    input_token,
    listen,
    parse_address,
    read_token,
)
from harness.engine.slurm_agents import SLURM, own_address
from harness.errors import ExitCode

if TYPE_CHECKING:
    import argparse

STDIN = Path("-")


def serve(args: argparse.Namespace) -> int:
    """Serve controllers on this host until Ctrl-C or SIGTERM; return the exit code.

    Raises InfrastructureError without torch, where each gang of a run would fail.
    """
    check_torch()
    by_slurm = args.listen == SLURM
    address = own_address(os.environ) if by_slurm else parse_address(args.listen, "--listen")
    token = input_token(sys.stdin) if args.token_file == STDIN else read_token(args.token_file)
    try:
        with terminable(), listen(address) as server:
            address = Address(ip=address.ip, port=server.getsockname()[1])
            say(f"listening on {address}; on the machine that starts runs: --hosts {address},...")
            Agent(server, address, token, say).serve(runs=1 if by_slurm else None)
    except KeyboardInterrupt as stop:
        return code_of(stop)
    return ExitCode.PASSED


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)
