"""Give each pytest-xdist worker a slot of its own: a number, and the GPUs that go with it.

A worker that died is replaced by one with a new name, so names do not tell who may use which GPU.
A slot is a locked file. The guardian of a worker's ranks holds the lock as well: the slot of a
killed worker is free once its last process is gone. No torch.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from harness.errors import InfrastructureError

if TYPE_CHECKING:
    from pathlib import Path

WAIT_LIMIT = 90.0  # seconds for the processes of a killed worker to end
_PAUSE = 0.05  # seconds


class WorkerSlot:
    """A locked slot. fd: of the lock; it is free once every copy of it is closed."""

    def __init__(self, number: int, fd: int) -> None:
        self.number, self.fd = number, fd

    @classmethod
    def take(cls, folder: Path, count: int, limit: float = WAIT_LIMIT) -> WorkerSlot:
        """Return the first free one of `count` slots, whose files are in a folder.

        Raises InfrastructureError if none becomes free within `limit` seconds.
        """
        deadline = time.monotonic() + limit
        while True:
            for number in range(count):
                fd = _locked(folder / f"slot{number}")
                if fd is not None:
                    return cls(number, fd)
            if time.monotonic() >= deadline:
                break
            time.sleep(_PAUSE)
        raise InfrastructureError(
            f"none of {count} slots became free within {limit:g} s: processes of a worker that "
            "died are still running"
        )

    def release(self) -> None:
        """Close this process's copy of the lock."""
        os.close(self.fd)


def devices_of(number: int, share: int, total: int) -> tuple[int, ...]:
    """Return the GPUs of a slot. share: how many each slot has, of `total`; 0 on a CPU."""
    return tuple((number * share + i) % total for i in range(share))


def _locked(path: Path) -> int | None:
    """Return an open file with its lock, or None if another process has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
