"""List and kill the descendants of this process on Linux. Torch-free.

The guardian and each gang's holder are *subreapers*: orphans among their descendants, `setsid`
children included, become their own children and cannot escape.
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
    """Make orphans among the descendants children of this process.

    Some sandboxes do not implement the call: orphans then go to process 1, which is logged.
    Processes whose parent is alive are found all the same.
    """
    try:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    except OSError as error:
        print(f"cannot adopt orphaned processes: {error}", flush=True)


def die_with_parent(parent: int) -> None:
    """Have this process killed when `parent` ends. Call it from the main thread.

    The signal follows the *thread* that started this process; all parents in this package are
    single-threaded. If the parent has already ended, this process exits at once.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _parents() -> dict[int, int]:
    """Return the parent of each living process, without zombies."""
    parents = {}
    for name in os.listdir(_PROC):  # noqa: PTH208 - only names are needed, in a hot path
        if not name.isdigit():
            continue
        try:
            text = (_PROC / name / "stat").read_text()
        except OSError:
            continue  # ended since the listing
        state, parent = text[text.rindex(")") + 2 :].split()[:2]
        if state not in "ZX":
            parents[int(name)] = int(parent)
    return parents


def descendants(root: int) -> list[int]:
    """Return every living process below `root`, parents before children."""
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
    """Return the wait status of each ended child of this process, by pid; never block."""
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
    """Return whether this process has no child, dead or alive.

    A subreaper without children has no descendants. A walk through /proc does not prove that: it
    can miss a process whose parent dies during the walk.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def kill_descendants(limit: float) -> tuple[set[int], list[int]]:
    """Kill all descendants of this process, a subreaper, repeatedly until none is left.

    Return the pids that were killed, and those still alive after `limit` seconds: a process in an
    uninterruptible system call cannot be killed.
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
