"""Functions that ranks import, for tests of `parallel_launch` and of a rank's surroundings."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist


def sum_of_ranks(start):
    total = torch.tensor([start + dist.get_rank()])
    dist.all_reduce(total)
    return {"total": total, "rank": os.environ["RANK"], "world": os.environ["WORLD_SIZE"]}


def raise_on(rank):
    if dist.get_rank() == rank:
        raise KeyError(f"told to, on {rank}")


def exit_on(rank, code):
    if dist.get_rank() == rank:
        os._exit(code)
    dist.barrier()


def sleep_on(rank):
    if dist.get_rank() == rank:
        time.sleep(300)


def sleep_everywhere(seconds):
    time.sleep(seconds)


def leave_a_grandchild(mark):
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={**os.environ, "GRANDCHILD": mark},
        start_new_session=True,
    )


def unpicklable():
    return lambda: 1


def environment():
    return dict(os.environ)


def surroundings():
    """What the rank's process looks like from inside."""
    x = torch.ones(200, 200) @ torch.ones(200, 200)  # hangs where a parent has used OpenMP
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    parent = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
    return {
        "product": x[0, 0].item(),
        "threads": torch.get_num_threads(),
        "holder": os.getppid(),
        "forkserver": int(parent[1]),
        "session": int(stat[3]),
        "pid": os.getpid(),
        "stdin": str(Path("/proc/self/fd/0").readlink()),
        "sockets": len(list(_sockets())),
        "triton": triton_mode(),
        "cuda_initialized": torch.cuda.is_initialized(),
    }


def _sockets():
    """Sockets that were there before torch.distributed: those that came through the fork."""
    for entry in sorted(Path("/proc/self/fd").iterdir()):
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:") and target[8:-1] in _unix_sockets():
            yield entry.name


def _unix_sockets():
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {line.split()[6] for line in lines}


def triton_mode():
    import triton

    @triton.jit
    def kernel():
        pass

    return type(kernel).__name__
