"""Collectives as a layer needs them, over any transport.

NCCL takes device tensors as they are. Gloo has no fp8 and no uneven all-gather, and where ranks
share a device it cannot see the device's memory: tensors then go through the host (`staged`),
one-byte formats as uint8, uneven rows padded by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch import Tensor

    from moe.layout import Layout, Partition

# torch 2.13 renamed both; the old names warn there and the new ones are missing in 2.11.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


@dataclass(frozen=True, kw_only=True)
class Group:
    """One process group as seen from this rank; `handle` is None for a group of one."""

    handle: dist.ProcessGroup | None
    size: int
    rank: int  # within the group
    staged: bool = False  # copy through the host: the transport cannot take device tensors

    def all_gather(self, x: Tensor) -> Tensor:
        """[T, ...] the same shape on all ranks -> [size * T, ...] in rank order."""
        if self.handle is None:
            return x
        raw = x.contiguous().view(torch.uint8) if x.element_size() == 1 else x.contiguous()
        sent = raw.cpu() if self.staged else raw
        out = sent.new_empty((self.size * sent.shape[0], *sent.shape[1:]))
        _all_gather(out, sent, group=self.handle)
        return out.to(x.device).view(x.dtype) if x.element_size() == 1 else out.to(x.device)

    def reduce_scatter(self, x: Tensor) -> Tensor:
        """[size * T, ...] partial sums -> this rank's [T, ...], summed over the ranks."""
        if self.handle is None:
            return x
        sent = x.contiguous().cpu() if self.staged else x.contiguous()
        out = sent.new_empty((sent.shape[0] // self.size, *sent.shape[1:]))
        _reduce_scatter(out, sent, group=self.handle)
        return out.to(x.device)

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over the ranks; may work in place."""
        if self.handle is None:
            return x
        sent = x.contiguous().cpu() if self.staged else x.contiguous()
        dist.all_reduce(sent, group=self.handle)
        return sent.to(x.device)

    def gather_counts(self, count: int, device: torch.device) -> tuple[int, ...]:
        """Every rank's `count`, in rank order."""
        mine = torch.tensor([count], dtype=torch.int64, device=device)
        return tuple(self.all_gather(mine).tolist())


ALONE = Group(handle=None, size=1, rank=0)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups of one layout on this rank.

    gather: ranks that hold different tokens and whose partial sums belong together: those with
    the same tp_rank, or all of them under sequence parallelism. tp: the ranks of this DP rank.
    """

    gather: Group
    tp: Group


def make_groups(layout: Layout, rank: int, *, staged: bool) -> Groups:
    """Collective: every rank of the default process group calls it with the same layout."""
    gather, tp = (_group(layout.partition(name), rank, staged) for name in ("gather", "tp"))
    return Groups(gather=gather, tp=tp)


def _group(parts: Partition, rank: int, staged: bool) -> Group:
    """This rank's part; every rank creates every part, as torch asks for."""
    mine = ALONE
    for ranks in parts:
        if len(ranks) == 1:
            continue
        handle = dist.new_group(list(ranks))
        if rank in ranks:
            mine = Group(handle=handle, size=len(ranks), rank=ranks.index(rank), staged=staged)
    return mine
