"""Linux process trees: who descends from this process, and how to end all of it.

Torch-free. The guardian and each gang's holder are *subreapers*: whatever their descendants leave
behind, `setsid` children included, becomes their own child and cannot get away.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")


def become_subreaper() -> None:
    """Orphans among the descendants become children of this process.

    Where the kernel does not know the call (some sandboxes), orphans go to process 1 and a line
    says so in the log; everything that still has a living parent is found all the same.
    """
    try:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    except OSError as error:
        print(f"orphans cannot be adopted here: {error}", flush=True)


def die_with_parent(parent: int) -> None:
    """SIGKILL this process when `parent` ends. Call it from the main thread.

    The signal follows the *thread* that started this process; all parents in this package are
    single-threaded. A parent that is already gone ends this process at once.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _parents() -> dict[int, int]:
    """Parent of each process that is alive; zombies are left out."""
    parents = {}
    for name in os.listdir(_PROC):  # noqa: PTH208 - only names are wanted, and it is a hot path
        if not name.isdigit():
            continue
        try:
            text = (_PROC / name / "stat").read_text()
        except OSError:
            continue  # gone since the listing
        state, parent = text[text.rindex(")") + 2 :].split()[:2]
        if state not in "ZX":
            parents[int(name)] = int(parent)
    return parents


def descendants(root: int) -> list[int]:
    """Every living process below `root`, parents before children."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents().items():
        children.setdefault(parent, []).append(pid)
    pids: list[int] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        pids += below
        todo += below
    return pids


def reap() -> dict[int, int]:
    """Wait status of each child of this process that has ended; never blocks."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def _childless() -> bool:
    """Whether this process has no child at all, dead or alive.

    For a subreaper that means no descendants. A walk through /proc is no proof: a process whose
    parent dies during the walk can be missed.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def kill_descendants(limit: float) -> tuple[set[int], list[int]]:
    """SIGKILL all descendants of this process, a subreaper, again and again until none is left.

    Returns those that were killed, and those that are still there after `limit` seconds: a
    process in an uninterruptible system call cannot be killed by anyone.
    """
    killed: set[int] = set()
    pause, deadline = 0.001, time.monotonic() + limit
    while True:
        reap()
        if _childless():
            return killed, []
        alive = descendants(os.getpid())
        if time.monotonic() > deadline:
            return killed, alive
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
