"""Run the collectives that a layer needs, over any transport, in its process groups.

NCCL takes device tensors directly. Gloo supports neither fp8 nor an uneven all-gather, and cannot
read the memory of a device that ranks share. Tensors are then copied through the host (`staged`),
one-byte dtypes are sent as uint8, and the caller pads uneven rows. An all-to-all may be uneven.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from moe.byte_views import as_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moe.layout import Layout, Partition

# torch 2.13 renamed both: the old names warn there, and the new ones do not exist in 2.11.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Run collectives in one process group of this rank."""

    handle: dist.ProcessGroup | None  # None for a group of one rank
    size: int  # ranks in the group
    rank: int  # this rank's position within the group
    staged: bool = False  # copy through the host, because the transport takes no device tensors

    def all_gather(self, x: Tensor) -> Tensor:
        """Return [size * T, ...] in rank order. x: [T, ...], of equal shape on all ranks."""
        if self.handle is None:
            return x
        raw = x.contiguous().view(torch.uint8) if x.element_size() == 1 else x.contiguous()
        sent = raw.cpu() if self.staged else raw
        out = sent.new_empty((self.size * sent.shape[0], *sent.shape[1:]))
        _all_gather(out, sent, group=self.handle)
        return out.to(x.device).view(x.dtype) if x.element_size() == 1 else out.to(x.device)

    def reduce_scatter(self, x: Tensor) -> Tensor:
        """Return this rank's [T, ...] of the sum over ranks. x: [size * T, ...] partial sums."""
        if self.handle is None:
            return x
        sent = x.contiguous().cpu() if self.staged else x.contiguous()
        out = sent.new_empty((sent.shape[0] // self.size, *sent.shape[1:]))
        _reduce_scatter(out, sent, group=self.handle)
        return out.to(x.device)

    def all_reduce(self, x: Tensor) -> Tensor:
        """Return the sum of x over ranks, of the same shape; may overwrite x."""
        if self.handle is None:
            return x
        sent = x.contiguous().cpu() if self.staged else x.contiguous()
        dist.all_reduce(sent, group=self.handle)
        return sent.to(x.device)

    def broadcast(self, x: Tensor, root: int) -> Tensor:
        """Return the x of the rank at position `root`. x: of equal shape on all ranks."""
        if self.handle is None:
            return x
        raw = as_bytes(x.contiguous())
        # What arrives is written into what is passed: a copy.
        sent = raw.to("cpu", copy=True) if self.staged else raw.clone()
        dist.broadcast(sent, group=self.handle, group_src=root)
        return sent.to(x.device).view(x.dtype)

    def all_to_all(self, x: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Return the rows that all ranks send to this one, [sum of received, ...], in rank order.

        x: [sum of sent, ...], the rows for each rank in rank order. sent, received: the number of
        rows for and from each rank; what a rank sends is what the other one receives.
        """
        if self.handle is None:
            return x
        raw = as_bytes(x.contiguous())
        raw = raw.cpu() if self.staged else raw
        out = raw.new_empty((sum(received), *raw.shape[1:]))
        dist.all_to_all_single(out, raw, list(received), list(sent), group=self.handle)
        return out.to(x.device).view(x.dtype)

    def barrier(self) -> None:
        """Wait until every rank of the group is here."""
        if self.handle is not None:
            dist.barrier(group=self.handle)

    def gather_counts(self, count: int, device: torch.device) -> tuple[int, ...]:
        """Return the `count` of every rank, in rank order."""
        if self.handle is None:
            return (count,)
        return tuple(first for (first,) in self.gather_rows((count,), device))

    def gather_rows(self, row: Sequence[int], device: torch.device) -> tuple[tuple[int, ...], ...]:
        """Return the integers of every rank, in rank order. row: this rank's, a count first."""
        numbers = torch.tensor([row], dtype=torch.int64, device=device)
        return tuple(tuple(of_rank) for of_rank in self.all_gather(numbers).tolist())

    def send(self, x: Tensor, to: int) -> dist.Work:
        """Start to send x to the rank at position `to`; x must stay unchanged until the end."""
        return _posted(dist.isend(x, group=self.handle, group_dst=to))

    def receive(self, x: Tensor, source: int) -> dist.Work:
        """Start to receive x from the rank at position `source`, in the order of its sends."""
        return _posted(dist.irecv(x, group=self.handle, group_src=source))


def _posted(work: dist.Work | None) -> dist.Work:
    assert work is not None, "this rank is in the group"
    return work


ALONE = Group(handle=None, size=1, rank=0)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Hold the groups of one layout on this rank.

    gather: the ranks that hold different tokens and contribute to each other's sums: those with the
        same tp_rank, or all ranks under sequence parallelism.
    tp: the ranks of this context rank, which hold the same tokens without sequence parallelism.
    """

    gather: Group
    tp: Group


def make_groups(layout: Layout, rank: int, *, staged: bool) -> Groups:
    """Create this rank's groups. Collective over the default group, with equal layouts."""
    gather, tp = (make_group(layout, name, rank, staged=staged) for name in ("gather", "tp"))
    return Groups(gather=gather, tp=tp)


def make_group(layout: Layout, name: str, rank: int, *, staged: bool) -> Group:
    """Create this rank's group of a name of `moe.layout.GROUPS`. Collective, as `make_groups`."""
    return _group(name, layout.partition(name), rank, staged)


def _group(name: str, parts: Partition, rank: int, staged: bool) -> Group:
    """Return this rank's group; every rank creates every group, as torch requires."""
    group = ALONE
    for ranks in parts:
        if len(ranks) == 1:
            continue
        handle = dist.new_group(list(ranks), group_desc=name)
        if rank in ranks:
            group = Group(handle=handle, size=len(ranks), rank=ranks.index(rank), staged=staged)
    return group
