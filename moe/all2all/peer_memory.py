"""Lend buffers that every rank of a group can address, to calls of different sizes.

Where the memory comes from is all that differs between devices: `PeerMemory` has one implementation
for each, found by the type of the device. Ranks take and give back buffers in the same order and of
the same sizes, so that a buffer is the same one on all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.need import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from moe.collectives import Group

# Type of a device -> implementation, called with (group, bytes, device). Collective.
_SOURCES = {
    "cpu": "moe.all2all.shared_segment:SharedSegment",
    "cuda": "moe.all2all.symmetric_memory:SymmetricMemory",
}


class PeerMemory(Protocol):
    """Hold memory of one size on each rank of a group, which all of them can address.

    own: [bytes] uint8, this rank's. addresses: [S] int64 on the device, where each rank's begins,
    as kernels of this rank see it.
    """

    own: Tensor
    addresses: Tensor

    def barrier(self) -> None:
        """Wait for all ranks: what they have written before is there afterwards. Collective."""


class OwnMemory:
    """Stand for the memory of a rank that is alone, or of tensors without values."""

    def __init__(self, group: Group, size: int, device: torch.device) -> None:
        self.own = torch.empty(size, dtype=torch.uint8, device=device)
        begin = 0 if self.own.is_meta else self.own.data_ptr()
        self.addresses = torch.full((group.size,), begin, dtype=torch.int64, device=device)

    def barrier(self) -> None:
        """Wait for nobody."""


@dataclass(frozen=True, kw_only=True)
class PeerLease:
    """Hold this rank's tensor of a lease, and where each rank's begins: [S] int64 addresses."""

    tensor: Tensor
    addresses: Tensor
    memory: PeerMemory


class PeerPool:
    """Hold the buffers of one group. Two calls that are under way never share one.

    A buffer that is given back rests until all ranks have met once more: another rank may still
    read its own, into which this one would write.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._free: list[tuple[PeerMemory, Tensor]] = []  # with addresses past the first guard band
        self._resting: list[tuple[PeerMemory, Tensor]] = []

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> PeerLease:
        """Return an uninitialised tensor, of equal shape on all ranks. Collective.

        Raises MoEError while a CUDA graph is captured, if no buffer is large enough: making one is
        for all ranks, and no graph can have that in it.
        """
        band = guarded_buffers.GUARD_BYTES  # always there, so that addresses never depend on it
        size = math.prod(shape) * dtype.itemsize
        memory, addresses = self._fitting(size + 2 * band, device)
        raw = memory.own if guarded_buffers.is_guarding() else memory.own[band:]
        tensor = guarded_buffers.view_of(raw, shape, dtype)
        return PeerLease(tensor=tensor, addresses=addresses, memory=memory)

    def _fitting(self, size: int, device: torch.device) -> tuple[PeerMemory, Tensor]:
        fitting = [pair for pair in self._free if len(pair[0].own) >= size]
        if fitting:
            best = min(fitting, key=lambda pair: len(pair[0].own))
            self._free = [pair for pair in self._free if pair is not best]
            return best
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise MoEError(
                f"no buffer has {size} bytes, and none can be made while a CUDA graph is captured: "
                "call the layer once with as many tokens before"
            )
        if self._free:  # the new one takes the place of the smallest, which was too small
            smallest = min(self._free, key=lambda pair: len(pair[0].own))
            self._free = [pair for pair in self._free if pair is not smallest]
        memory = open_peer_memory(self._group, size, device)
        return memory, memory.addresses + guarded_buffers.GUARD_BYTES

    def meet(self, lease: PeerLease) -> None:
        """Wait until all ranks are here; what they put into each other's buffers has arrived."""
        rested, self._resting = self._resting, []
        lease.memory.barrier()
        self._free += rested

    def give_back(self, lease: PeerLease) -> None:
        """Let calls after the next `meet` use the memory. Its tensor must not be used any more."""
        self._resting.append((lease.memory, lease.addresses))


def open_peer_memory(group: Group, size: int, device: torch.device) -> PeerMemory:
    """Return `size` bytes on each rank of the group, for all of them to address. Collective.

    Raises MoEError on every rank if ranks lie on several hosts, and for a device of a type without
    such memory or one that ranks share.
    """
    if group.handle is None or device.type == "meta":
        return OwnMemory(group, size, device)
    if device.type not in _SOURCES:
        raise MoEError(
            f"no memory that ranks can address in each other is known for a device {device}; "
            f"use an all2all backend with collectives, or one of {', '.join(_SOURCES)}"
        )
    if group.staged:
        raise MoEError(
            f"ranks share {device}, and so cannot address each other's memory there: give each "
            "rank a device of its own, or use an all2all backend with collectives"
        )
    _check_one_host(group, device)
    memory: PeerMemory = resolve(_SOURCES[device.type])(group, size, device)
    return memory


def _check_one_host(group: Group, device: torch.device) -> None:
    """Raise MoEError on every rank unless all run on one host, where process ids mean the same."""
    hosts = group.gather_counts(host_number(), device)
    if len(set(hosts)) > 1:
        raise MoEError(
            f"the ranks of a group are on {len(set(hosts))} hosts (or in separate containers), "
            f"{', '.join(map(str, hosts))} in rank order, and cannot address each other's memory: "
            "use an all2all backend with collectives"
        )


def host_number() -> int:
    """Return a number that differs between hosts, and between containers of one host."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return crc32(f"{boot}{Path('/proc/self/ns/pid').readlink()}".encode())
