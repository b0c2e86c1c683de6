"""Run the forkserver: a process with torch already imported, from which gangs are forked.

It never touches a device and never computes on tensors: a forked child cannot use its parent's
CUDA context, and hangs in its first matmul if the parent has used OpenMP. It has one thread, and
ends with the guardian.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import sys
import time
import traceback

from harness.engine import process_tree, rank_bootstrap
from harness.engine.channel import Channel
from harness.engine.messages import Preloaded, StartGang


def _import_all(package: str) -> None:
    """Import every module of a package; log those that cannot be imported."""
    root = importlib.import_module(package)
    for info in pkgutil.walk_packages(root.__path__, f"{package}."):
        try:
            importlib.import_module(info.name)
        except Exception:  # a member whose optional package is not installed
            print(f"not preloaded: {info.name}\n{traceback.format_exc()}", flush=True)


def preload(modules: list[str]) -> None:
    """Import modules; `name.*` stands for a package with all its modules.

    Raises RuntimeError if an import touches a device.
    """
    # OpenBLAS starts its threads at import; a process that forks must have none.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # A thread of OpenMP that spins takes the core that another rank, or job, computes on.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in modules:
        if name.endswith(".*"):
            _import_all(name.removesuffix(".*"))
        else:
            importlib.import_module(name)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError(
            f"importing {', '.join(modules)} touched a device; ranks cannot be forked"
        )
    gc.collect()
    gc.freeze()  # shared pages stay shared when children collect garbage


def _fork_gang(channel: Channel, order: StartGang) -> None:
    """Fork the holder of a new gang, which gets the descriptors received with the order."""
    store = bool(order.init.get("rendezvous")) and order.first_rank == 0
    count = 1 + len(rank_bootstrap.ranks_of(order)) + store
    fds, channel.fds = channel.fds[:count], channel.fds[count:]
    parent = os.getpid()
    sys.stdout.flush()
    if os.fork() == 0:
        status = 1
        try:
            channel.close()
            rank_bootstrap.hold(order, fds, parent)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    for fd in fds:
        os.close(fd)


def main(arguments: list[str]) -> None:
    """Preload modules, then fork gangs until the channel is closed.

    arguments: the channel's file descriptor, the guardian's pid, modules to preload.
    """
    start = time.monotonic()
    process_tree.die_with_parent(int(arguments[1]))
    channel, modules = Channel.from_fd(int(arguments[0])), arguments[2:]
    preload(modules)
    loaded = [name for name in modules if name.removesuffix(".*") in sys.modules]
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - only the number is needed
    seconds = time.monotonic() - start
    channel.send(Preloaded(pid=os.getpid(), seconds=seconds, threads=threads, modules=loaded))
    while (order := channel.wait()) is not None:
        process_tree.reap()
        if isinstance(order, StartGang):
            _fork_gang(channel, order)


if __name__ == "__main__":
    main(sys.argv[1:])
