"""Give the GPUs of one host memory that all of them address: torch's symmetric memory.

NVLink multicast is never asked for: on hosts that several people share it can disturb the GPUs of
others.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed._symmetric_memory as symm_mem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moe.collectives import Group

_NO_MULTICAST = "TORCH_SYMM_MEM_DISABLE_MULTICAST"


class SymmetricMemory:
    """Allocate on each rank's own GPU, and map the others'; see `PeerMemory`. Collective."""

    def __init__(self, group: Group, size: int, device: torch.device) -> None:
        handle: Any = group.handle  # a group of one rank has none, and torch says so
        with _without_multicast():
            self.own: torch.Tensor = symm_mem.empty(size, dtype=torch.uint8, device=device)
            self._handle: Any = symm_mem.rendezvous(self.own, handle)
        self.addresses = torch.tensor(self._handle.buffer_ptrs, dtype=torch.int64, device=device)
        self._handle.barrier()  # no rank writes before all have mapped

    def barrier(self) -> None:
        """Let the stream wait for the streams of all ranks; the host goes on."""
        self._handle.barrier()


@contextmanager
def _without_multicast() -> Iterator[None]:
    """Say inside that torch must not set up multicast, whatever the environment says."""
    before = os.environ.get(_NO_MULTICAST)
    os.environ[_NO_MULTICAST] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_MULTICAST]
        else:
            os.environ[_NO_MULTICAST] = before
