"""Run the holder of a gang, and start each rank's worker in a forked process.

Torch-free itself; each rank imports the worker by name. Every gang has its own holder process. As
a subreaper it owns every process that its ranks start, so that ending a gang ends its orphans and
never those of another gang.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import selectors
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from harness.engine import device_memory, process_tree
from harness.engine.channel import Channel
from harness.engine.guardian import drain, watch_children
from harness.engine.messages import EndGang, Exited, Forked, RankInit, SignalRanks, StartGang, Swept

KILL_LIMIT = 10.0  # seconds
MEMORY_LIMIT = 20.0  # seconds to wait for the memory of dead ranks
WORKER = "harness.worker"
CALL = "call.pickle"  # the pickled (function, arguments) of a one-shot gang, in its folder


def rank_log(folder: str | Path, rank: int) -> Path:
    """Return the file for a rank's stdout, stderr and stacks."""
    return Path(folder) / f"rank{rank}.log"


def result_file(folder: str | Path, rank: int) -> Path:
    """Return the file with the pickled return value of one rank of a one-shot gang."""
    return Path(folder) / f"result{rank}.pickle"


def apply_environment(order: StartGang) -> None:
    """Apply the changes of the controller's environment since the forkserver started."""
    os.environ.update(order.env)
    for name in order.unset:
        os.environ.pop(name, None)
    sys.path[:] = order.sys_path


def ranks_of(order: StartGang) -> range:
    """Return the ranks that are on this host."""
    return range(order.first_rank, order.first_rank + (order.local_size or order.world_size))


def hold(order: StartGang, fds: list[int], parent: int) -> None:
    """Run as the holder: fork the ranks, report how they end, and end the gang on request.

    fds: the holder's channel, one for each rank of this host, then the store's socket if it is
    here.
    """
    process_tree.die_with_parent(parent)
    os.setsid()
    process_tree.become_subreaper()
    apply_environment(order)
    init = RankInit(**order.init)
    before = device_memory.used() if init.device != "cpu" else []
    ranks = {_fork_rank(order, rank, fds): rank for rank in ranks_of(order)}
    for fd in fds[1:]:
        os.close(fd)
    channel = Channel.from_fd(fds[0])
    channel.send(Forked(holder=os.getpid(), ranks=list(ranks)))
    _watch(channel, dict(ranks))
    killed, survivors = process_tree.kill_descendants(KILL_LIMIT)
    waited = device_memory.wait_until_free(
        before, MEMORY_LIMIT, devices=init.devices, shared=init.device_ranks > 1
    )
    with contextlib.suppress(OSError):  # the controller may have ended
        orphans = len(killed - ranks.keys())
        channel.send(Swept(orphans=orphans, survivors=survivors, memory_wait=waited))


def _watch(channel: Channel, ranks: dict[int, int]) -> None:
    """Report each rank's end; return when the gang must end. ranks: pid -> rank of the living."""
    children = watch_children()
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        selector.register(children, selectors.EVENT_READ)
        while True:
            # Reap first: ranks may have ended before SIGCHLD was watched.
            for pid, status in process_tree.reap().items():
                if pid in ranks:
                    code = os.waitstatus_to_exitcode(status)
                    channel.send(Exited(rank=ranks.pop(pid), status=code))
            selector.select()
            drain(children)
            for order in channel.receive():
                if isinstance(order, EndGang):
                    return
                if isinstance(order, SignalRanks):
                    _signal(ranks, order.number)
            if channel.closed:
                return


def _signal(pids: dict[int, int], number: int) -> None:
    for pid in pids:  # not reaped yet, so no pid was reused
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _fork_rank(order: StartGang, rank: int, fds: list[int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_rank(order, rank, fds, parent)
    return pid


def _become_rank(order: StartGang, rank: int, fds: list[int], parent: int) -> NoReturn:
    """Run the worker in the child, and exit with its status."""
    status = 1
    try:
        channel = _set_up_rank(order, rank, fds, parent)
        worker = importlib.import_module(WORKER)
        worker.main(channel, rank, order.world_size, order.folder, _init_of(order, rank, fds))
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        # No atexit handlers, no communicator teardown: both can block on a rank that has ended.
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _set_up_rank(order: StartGang, rank: int, fds: list[int], parent: int) -> Channel:
    """Set up session, log, stacks on SIGUSR1, descriptors and environment; return the channel."""
    process_tree.die_with_parent(parent)
    os.setsid()
    _redirect(rank_log(order.folder, rank))
    channel_fd = fds[1 + rank - order.first_rank]
    for fd in fds:
        if fd not in (channel_fd, _init_of(order, rank, fds).store_fd):
            os.close(fd)
    os.environ.update(_rank_environment(order, rank))
    return Channel.from_fd(channel_fd)


def _init_of(order: StartGang, rank: int, fds: list[int]) -> RankInit:
    """Return what a rank begins with; rank 0 of a gang on several hosts has the store's socket."""
    store = fds[-1] if rank == 0 and order.init.get("rendezvous") else -1
    return RankInit(**{**order.init, "store_fd": store})


def _rank_environment(order: StartGang, rank: int) -> dict[str, str]:
    names = {
        "RANK": rank,
        "LOCAL_RANK": rank - order.first_rank,
        "WORLD_SIZE": order.world_size,
        "LOCAL_WORLD_SIZE": len(ranks_of(order)),
    }
    return {name: str(value) for name, value in names.items()}


def _redirect(log: Path) -> None:
    """Read stdin from /dev/null; append stdout and stderr to the log (truncated elsewhere)."""
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.enable(file=file, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True, chain=False)
