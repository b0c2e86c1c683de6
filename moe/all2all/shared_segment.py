"""Give processes on one host memory that all of them map: the peer memory of the CPU.

The memory is an anonymous file of the first rank, which the others open through /proc. It has no
name, so nothing is left behind, whichever rank dies and when. Ranks wait for each other by a
barrier of their group: an interpreted kernel that spins would take the processor from those for
whom it waits.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import torch

from moe.errors import MoEError

if TYPE_CHECKING:
    from torch import Tensor

    from moe.collectives import Group

_PAGE = mmap.PAGESIZE


class SharedSegment:
    """Map one file with a part for each rank of a group; see `PeerMemory`. Collective."""

    def __init__(self, group: Group, size: int, device: torch.device) -> None:
        self._group = group
        part = -(-size // _PAGE) * _PAGE
        all_parts = _mapped(group, part * group.size, device)
        begin = group.rank * part
        self.own = all_parts[begin : begin + size]
        self.addresses = all_parts.data_ptr() + part * torch.arange(group.size)

    def barrier(self) -> None:
        """Wait for all ranks. A barrier's messages order the memory of processes of one host."""
        self._group.barrier()


def _mapped(group: Group, size: int, device: torch.device) -> Tensor:
    """Return [size] uint8, one mapping that all ranks of the group share.

    Raises MoEError on every rank if one of them cannot map it.
    """
    first = group.rank == 0
    made = os.memfd_create("moe-peer-memory", os.MFD_CLOEXEC) if first else -1
    if first:
        os.ftruncate(made, size)
    (owner, number), *_ = group.gather_rows((os.getpid(), made), device)
    mapping, fault = _opened(f"/proc/{owner}/fd/{number}", size)
    known = group.gather_counts(int(mapping is not None), device)  # the file stays open until then
    if first:
        os.close(made)
    if mapping is None or not all(known):
        failed = [i for i, is_there in enumerate(known) if not is_there]
        raise MoEError(
            f"ranks at positions {', '.join(map(str, failed))} of a group cannot map {size} bytes "
            f"of process {owner}{fault}: run all ranks as one user, and leave room in memory"
        )
    return mapping


def _opened(path: str, size: int) -> tuple[Tensor | None, str]:
    """Return the mapping of a file, or None and what went wrong.

    It holds no file descriptor, as one of Python's `mmap` does: a watch of what calls leave behind
    would find each.
    """
    try:
        return torch.from_file(path, shared=True, size=size, dtype=torch.uint8, device="cpu"), ""
    except RuntimeError as error:
        return None, f" ({error})"
