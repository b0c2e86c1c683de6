"""Send each token to each of its experts, into blocks of a fixed capacity: the low-latency format.

Ranks tell each other how many rows each expert gets. If one gets more than its block has room for,
every rank raises an error: nothing is dropped. A rank then sends codes and scales, as they were
quantized, in the order of the receiving blocks. Each row is one expert's and has the weight 1: its
output comes back in the layer's dtype, and the token's rank weighs and adds the outputs in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.all2all.base import PrepareFinalize
from moe.all2all.sizes import exchange
from moe.all2all.workspace import Workspace
from moe.byte_views import as_bytes
from moe.errors import MoEError
from moe.types import Dispatched, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.all2all.sizes import Sizes
    from moe.all2all.workspace import Lease
    from moe.collectives import Group
    from moe.types import Activations


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Hold who sends what. sent, received: rows for and from each rank of the group.

    tokens, slots: [sum of sent] int64, what each row is that this rank sends. at: [sum of received]
    int64, row of the blocks in which each arrived. weights: [T, k] float32. blocks: the buffers,
    which later calls may use after `finalize`.
    """

    tokens: Tensor
    slots: Tensor
    at: Tensor
    weights: Tensor
    sent: tuple[int, ...]
    received: tuple[int, ...]
    blocks: list[Lease]


class AllToAllBatched(PrepareFinalize):
    """Exchange the rows of each expert, in a block of `capacity` rows for each local expert."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self._workspace = Workspace()

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        """Return blocks; see the base class.

        Raises MoEError on every rank if an expert gets more rows than its block has room for.
        """
        held = self.held_by(routing.topk_ids)
        known = _known(routing.topk_ids, self._num_experts)
        own = torch.bincount(known, minlength=self._num_experts)
        sizes = exchange(self.group, x, routing, own.tolist(), self.capacity, self.experts_of)
        room = sum(sizes.counts) if self.capacity is None else self.capacity
        _check_room(sizes, room)
        way = self._way(routing, held, sizes, room)
        return self._dispatched(x, routing, way, sizes, room)

    @property
    def _num_experts(self) -> int:
        assert self.holders is not None
        return self.holders.shape[1]

    def _way(self, routing: Routing, held: Tensor, sizes: Sizes, room: int) -> Exchange:
        """Return what is sent, in the order of the blocks that get it, and where it arrives."""
        ids = routing.topk_ids
        ranks, tokens, slots = held.nonzero(as_tuple=True)
        place = self._local_ids(ids.device)[ranks, ids[tokens, slots].long()]
        order = (ranks * (1 + self._num_experts) + place).argsort(stable=True)
        experts = self.experts_of[self.group.rank]
        by_rank = [[row[e] for e in experts] for row in sizes.rows]
        incoming = torch.tensor(by_rank, dtype=torch.int64).view(len(by_rank), len(experts))
        return Exchange(
            tokens=tokens[order],
            slots=slots[order],
            at=_rows_of_blocks(incoming, room).to(ids.device),
            weights=torch.where(ids >= 0, routing.topk_weights.float(), 0.0),
            sent=tuple(torch.bincount(ranks, minlength=self.group.size).tolist()),
            received=tuple(incoming.sum(dim=1).tolist()),
            blocks=[],
        )

    def _local_ids(self, device: torch.device) -> Tensor:
        """Return [S, E] int64, the local id of an expert on each rank of the group; -1 = none."""
        table = torch.full((len(self.experts_of), self._num_experts), -1, dtype=torch.int64)
        for i, experts in enumerate(self.experts_of):
            table[i, list(experts)] = torch.arange(len(experts))
        return table.to(device)

    def _dispatched(
        self, x: Activations, routing: Routing, way: Exchange, sizes: Sizes, room: int
    ) -> Dispatched:
        experts = self.experts_of[self.group.rank]
        rows, device = len(experts) * room, x.codes.device
        start = sum(sizes.counts[: self.group.rank])
        adapters = routing.adapters
        numbers = [(way.tokens + start).int(), way.slots.int()]
        if adapters is not None:
            numbers.append(adapters[way.tokens].int())
        arrived = self.group.all_to_all(torch.stack(numbers, dim=1), way.sent, way.received)
        table = torch.full((rows, arrived.shape[1]), -1, dtype=torch.int32, device=device)
        table[way.at] = arrived
        owner = torch.tensor(experts, dtype=torch.int32, device=device).repeat_interleave(room)
        counts = [sum(row[e] for row in sizes.rows) for e in experts]
        scale = x.scale
        if scale is not None and x.format.has_row_scales:
            scale = self._in_blocks(scale, way, rows)
        return Dispatched(
            x=x.replace(codes=self._in_blocks(x.codes, way, rows), scale=scale),
            routing=Routing(
                topk_ids=torch.where(table[:, 0] >= 0, owner, -1)[:, None],
                topk_weights=torch.ones((rows, 1), device=device),
                adapters=None if adapters is None else table[:, 2].contiguous(),
            ),
            counts=sizes.counts,
            tokens=table[:, 0].contiguous(),
            slots=table[:, 1].contiguous(),
            block_counts=torch.tensor(counts, dtype=torch.int32, device=device),
            state=way,
        )

    def _in_blocks(self, x: Tensor, way: Exchange, rows: int) -> Tensor:
        """Return the blocks of what arrives of x [T, C], [rows, C]; unused rows are not written."""
        sent = as_bytes(x)[way.tokens].view(x.dtype)
        arrived = self.group.all_to_all(sent, way.sent, way.received)
        lease = self._workspace.take((rows, x.shape[1]), x.dtype, x.device)
        as_bytes(lease.tensor)[way.at] = as_bytes(arrived)
        way.blocks.append(lease)
        return lease.tensor

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        way: Exchange = dispatched.state
        back = self.group.all_to_all(partial[way.at], way.received, way.sent)
        for block in way.blocks:
            self._workspace.give_back(block)
        tokens, k = way.weights.shape
        outputs = torch.zeros((tokens * k, back.shape[1]), device=back.device)
        # Ranks that share an expert's columns each send a part: distinct rows, in a fixed order.
        start = 0
        for count in way.sent:
            part = slice(start, start + count)
            outputs.index_add_(0, way.tokens[part] * k + way.slots[part], back[part].float())
            start += count
        weighted = outputs.view(tokens, k, back.shape[1]) * way.weights[:, :, None]
        return weighted.sum(dim=1).to(partial.dtype)


def _known(topk_ids: Tensor, num_experts: int) -> Tensor:
    """Return the ids that are a routed expert's, flat, int64."""
    ids = topk_ids.flatten().long()
    return ids[(ids >= 0) & (ids < num_experts)]


def _check_room(sizes: Sizes, room: int) -> None:
    """Raise MoEError if an expert of any rank gets more rows than it has room for.

    Experts of ranks outside the group count, too: their own groups have the same tokens, so that
    every rank of the layer finds the same.
    """
    for e, counts in enumerate(zip(*sizes.rows, strict=True)):
        if sum(counts) > room:
            raise MoEError(
                f"expert {e} gets {sum(counts)} rows, and its capacity is {room}: give each expert "
                "more capacity, or send fewer tokens at a time"
            )


def _rows_of_blocks(incoming: Tensor, room: int) -> Tensor:
    """Return [sum] int64, the row of the blocks of each arriving row.

    incoming: [S, e] rows from each rank for each expert; they arrive by rank, then by expert. In a
    block the rows of the first rank come first.
    """
    before = incoming.cumsum(dim=0) - incoming
    starts = before + torch.arange(incoming.shape[1]) * room
    first = incoming.flatten().cumsum(dim=0) - incoming.flatten()
    counts = incoming.flatten()
    number = torch.arange(int(counts.sum()))
    return number + (starts.flatten() - first).repeat_interleave(counts)
