"""An executor whose cases go wrong for real. The fault is named by the case's `seed`."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

from harness.matrix.case import MoETestConfig
from harness.record.result import RankResult, Verdict

SLEEP = "6001.5"  # by which the tests know grandchildren


def _barrier(context):
    dist.barrier()


def _matmul(context):
    """Real tensor work and a real collective."""
    x = torch.ones(64, 64) @ torch.ones(64, 64) * (context.rank + 1)
    dist.all_reduce(x)
    ranks = context.world_size
    assert x[0, 0].item() == 64 * ranks * (ranks + 1) / 2


def _fail(context):
    return Verdict.FAILED


def _raise_on_one(context):
    if context.rank == 1:
        raise ValueError("the fault of rank 1")


def _raise_all(context):
    raise ValueError("the fault of all")


def _raise_while_others_wait(context):
    if context.rank == 1:
        raise ValueError("before the collective")
    dist.barrier()


def _exit_zero(context):
    if context.rank == 1:
        print("leaving early", flush=True)
        sys.exit(0)
    dist.barrier()


def _os_exit(context):
    if context.rank == 1:
        os._exit(7)
    dist.barrier()


def _sigkill(context):
    if context.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def _segfault(context):
    if context.rank == 1:
        ctypes.string_at(0)
    dist.barrier()


def _ignore_sigterm(context):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.report_status("asleep in the fault")
    time.sleep(600)


def _spin(context):
    if context.rank == 1:
        while True:
            pass


def _computes(context):
    """One rank multiplies and the other waits for it in a collective."""
    if context.rank == 1:
        x = torch.ones(256, 256)
        while True:
            x = (x @ x).clamp(max=1)
    dist.barrier()


def _stuck_in_c(context):
    """A lock of C that is taken twice, while Python's lock is held."""
    lock = ctypes.create_string_buffer(256)
    libc = ctypes.PyDLL(None)
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)


def _miss_collective(context):
    if context.rank != 1:
        dist.barrier()
    else:
        time.sleep(600)


def _setsid_grandchild(context):
    """Outlives its parent, in a session of its own, as a child of nobody."""
    subprocess.run(["/bin/sh", "-c", f"setsid sleep {SLEEP} >/dev/null 2>&1 &"], check=True)


def _grandchild_and_exit(context):
    _setsid_grandchild(context)
    os._exit(3)


def _grandchild_and_hang(context):
    _setsid_grandchild(context)
    context.report_status("grandchild started")
    time.sleep(600)


def _kill_holder(context):
    """The engine's own process between the forkserver and the ranks."""
    if context.rank == 0:
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def _stray(context):
    """A message nobody waits for, then an error on every rank."""
    if context.rank == 0:
        dist.isend(torch.full((2,), 7, dtype=torch.int64), 1)
    raise ValueError("left a message behind")


def _mixed_order(context):
    """Rank 0 enters a collective on a thread, which is still there when the case has failed."""
    if context.rank == 0:
        dist.all_gather(
            [torch.zeros(2, dtype=torch.int64) for _ in range(context.world_size)],
            torch.zeros(2, dtype=torch.int64),
            async_op=True,
        )
    raise ValueError("left a collective behind")


def _late_exit(context):
    """Passes, and ends a moment later: before the next case begins, if that one waits."""
    if context.rank == 1:
        threading.Timer(0.1, os._exit, (9,)).start()


def _slow(context):
    time.sleep(0.4)


def _vacuous(context):
    return Verdict.VACUOUS


def _not_a_result(context):
    return "passed"


def _flaky(context):
    """Fails in the first gang that meets it: leaves a file behind."""
    marker = Path(context.options["folder"]) / f"seen{context.rank}"
    if not marker.exists():
        marker.touch()
        raise ValueError("the first time")


def _exit_once_released(context):
    """Waits for the file `released`; ends the first rank that sees it, and passes after that."""
    folder = Path(context.options["folder"])
    while not (folder / "released").exists():
        time.sleep(0.01)
    if not (folder / "exited").exists():
        (folder / "exited").touch()
        os._exit(3)


def _noisy(context):
    print(f"line of rank {context.rank}", flush=True)
    ctypes.CDLL(None).puts(b"line from C")
    return Verdict.FAILED


def _threads(context):
    """Write down how many threads torch uses in this process."""
    threads = str(torch.get_num_threads())
    (Path(context.options["folder"]) / f"threads-{os.getpid()}").write_text(threads)


FAULTS = SimpleNamespace(
    none=_barrier,
    matmul=_matmul,
    fail=_fail,
    raise_on_one=_raise_on_one,
    raise_all=_raise_all,
    raise_while_others_wait=_raise_while_others_wait,
    exit_zero=_exit_zero,
    os_exit=_os_exit,
    sigkill=_sigkill,
    segfault=_segfault,
    ignore_sigterm=_ignore_sigterm,
    spin=_spin,
    miss_collective=_miss_collective,
    setsid_grandchild=_setsid_grandchild,
    grandchild_and_exit=_grandchild_and_exit,
    grandchild_and_hang=_grandchild_and_hang,
    kill_holder=_kill_holder,
    stray=_stray,
    mixed_order=_mixed_order,
    vacuous=_vacuous,
    not_a_result=_not_a_result,
    late_exit=_late_exit,
    slow=_slow,
    flaky=_flaky,
    noisy=_noisy,
    threads=_threads,
    exit_once_released=_exit_once_released,
    computes=_computes,
    stuck_in_c=_stuck_in_c,
    # Each is followed by what the next seed meets.
    vacuous_then_right=_vacuous,
    right=_barrier,
    vacuous_then_wrong=_vacuous,
    wrong=_fail,
    vacuous_twice=_vacuous,
    vacuous_then_flaky=_vacuous,
    flaky_with_seed=_flaky,
)
_NAMES = list(vars(FAULTS))


def case(fault: str = "none", world: int = 2, m: int = 8) -> MoETestConfig:
    """A case that meets this fault. Different `m` make different cases."""
    return MoETestConfig(
        m=m,
        n=8,
        k=8,
        num_experts=2,
        top_k=1,
        experts="torch_loop",
        tp_size=world,
        seed=_NAMES.index(fault),
    )


def run_case(case: MoETestConfig, context) -> RankResult:
    found = getattr(FAULTS, _NAMES[case.seed])(context)
    if isinstance(found, str) and not isinstance(found, Verdict):
        return found
    return RankResult(rank=context.rank, verdict=found or Verdict.PASSED)
