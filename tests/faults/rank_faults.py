"""An executor of cases with faults that tests/harness/engine has not; `seed` names the fault.

Each function gets what every rank gets, and does its fault on rank 1 unless it says otherwise.
benchmarks/reliability.py plants the same functions into other runners.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
import time

import torch
import torch.distributed as dist

from harness.matrix.case import MoETestConfig
from harness.record.result import RankResult, Verdict

EXECUTOR = f"{__name__}:run_case"
CHILDREN = 50
FLOOD = 100 << 20  # bytes
_ROOM = 256 << 20  # bytes of addresses that a rank may take beside what it has
_WANTED = 1 << 30  # bytes


def healthy(context):
    """No fault, and a tensor that a rank with a lowered limit cannot have."""
    torch.empty(_WANTED, dtype=torch.uint8)  # addresses only: no page of it is touched
    dist.barrier()


def stopped(context):
    if context.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    dist.barrier()


def deadlock_in_c(context):
    """Waits in C for a lock that it holds, without giving Python's own lock back."""
    if context.rank == 1:
        libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
        for _ in range(2):
            libc.pthread_mutex_lock(mutex)
    dist.barrier()


def out_of_memory(context):
    """On every rank; the limit stays lowered."""
    pages = int(open("/proc/self/statm").read().split()[0])  # noqa: PTH123, SIM115
    limit = pages * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    torch.empty(_WANTED, dtype=torch.uint8)


def fifty_children(context):
    """Processes in sessions of their own, which hold what the rank held and ignore SIGTERM."""
    if context.rank == 1:
        for _ in range(CHILDREN):
            if os.fork() == 0:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
                os._exit(0)
    dist.barrier()


def flood(context):
    if context.rank == 1:
        line = b"a line of a hundred megabytes of output, again and again and again\n" * 1000
        for _ in range(FLOOD // len(line)):
            os.write(1, line)
    dist.barrier()
    return Verdict.FAILED


def output_without_newline(context):
    if context.rank == 1:
        os.write(1, b"words without an end of line")
        os._exit(7)
    dist.barrier()


def killed_in_a_collective(context):
    """Rank 2 of four ends while it waits in a collective, before rank 3 has entered it."""
    if context.rank == 2:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if context.rank == 3:
        time.sleep(0.6)
    dist.all_reduce(torch.ones(1000))


FAULTS = (
    healthy,
    stopped,
    deadlock_in_c,
    out_of_memory,
    fifty_children,
    flood,
    output_without_newline,
    killed_in_a_collective,
)


def case(fault, m: int = 8, ranks: int = 2) -> MoETestConfig:
    """A case with this fault. Different `m` make different cases."""
    return MoETestConfig(
        m=m,
        n=8,
        k=8,
        num_experts=2,
        top_k=1,
        experts="torch_loop",
        tp_size=ranks,
        seed=FAULTS.index(fault),
    )


def run_case(case: MoETestConfig, context) -> RankResult:
    verdict = FAULTS[case.seed](context)
    return RankResult(rank=context.rank, verdict=verdict or Verdict.PASSED)
