"""Send each token to each of its experts, into blocks of a fixed capacity: the low-latency format.

Ranks tell each other how many rows each expert gets. If one gets more than its block has room for,
every rank raises an error: nothing is dropped. A rank then sends codes and scales, as they were
quantized, in the order of the receiving blocks. Each row is one expert's and has the weight 1: its
output comes back in the layer's dtype, and the token's rank weighs and adds the outputs in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from moe.all2all.base import PrepareFinalize
from moe.all2all.sizes import exchange
from moe.all2all.workspace import Workspace
from moe.byte_views import as_bytes
from moe.errors import MoEError
from moe.failed_call import Postponed, filled
from moe.types import Dispatched, Routing

if TYPE_CHECKING:
    from collections.abc import Callable

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


@dataclass(frozen=True, kw_only=True)
class _Arrived:
    """numbers: [rows, 2 (+ 1)] int32, token, slot, adapter of each row. x: of these rows."""

    numbers: Tensor
    x: Activations


class AllToAllBatched(PrepareFinalize):
    """Exchange the rows of each expert, in a block of `capacity` rows for each local expert."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self._workspace = Workspace()

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        """Return blocks; see the base class.

        Raises MoEError on every rank if an expert gets more rows than its block has room for.
        """
        self.known_holders(x.codes.device)  # without them it fails on every rank
        own = Postponed()
        rows = own.made(lambda: self._rows_of(routing), lambda: [0] * self._num_experts)
        sizes = exchange(self.group, x, routing, rows, self.capacity, self.experts_of)
        room = sum(sizes.counts) if self.capacity is None else self.capacity
        _check_room(sizes, room)
        way = own.made(
            lambda: self._way(routing, sizes, room), lambda: self._unknown_way(routing, sizes)
        )
        arrived = self._exchanged(x, routing, way, sizes, own)
        total = len(self.experts_of[self.group.rank]) * room
        dispatched = own.made(
            lambda: self._dispatched(arrived, way, sizes, room),
            lambda: self._unknown_blocks(arrived, way, sizes, total),
        )
        return replace(dispatched, error=own.error)

    @property
    def _num_experts(self) -> int:
        assert self.holders is not None
        return self.holders.shape[1]

    def _rows_of(self, routing: Routing) -> list[int]:
        """Return how many rows of this rank each expert gets."""
        known = _known(routing.topk_ids, self._num_experts)
        rows: list[int] = torch.bincount(known, minlength=self._num_experts).tolist()
        return rows

    def _way(self, routing: Routing, sizes: Sizes, room: int) -> Exchange:
        """Return what is sent, in the order of the blocks that get it, and where it arrives."""
        ids = routing.topk_ids
        ranks, tokens, slots = self.held_by(ids).nonzero(as_tuple=True)
        place = self._local_ids(ids.device)[ranks, ids[tokens, slots].long()]
        order = (ranks * (1 + self._num_experts) + place).argsort(stable=True)
        incoming = self._incoming(sizes)
        return Exchange(
            tokens=tokens[order],
            slots=slots[order],
            at=_rows_of_blocks(incoming, room).to(ids.device),
            weights=torch.where(ids >= 0, routing.topk_weights.float(), 0.0),
            sent=self._sent(sizes),
            received=tuple(incoming.sum(dim=1).tolist()),
            blocks=[],
        )

    def _unknown_way(self, routing: Routing, sizes: Sizes) -> Exchange:
        """Return a way with as many rows as the ranks were told, whatever these are."""
        sent, received = self._sent(sizes), tuple(self._incoming(sizes).sum(dim=1).tolist())
        none = routing.topk_ids.new_zeros(sum(sent), dtype=torch.int64)
        at = torch.arange(sum(received), device=none.device)
        weights = torch.zeros_like(routing.topk_weights, dtype=torch.float32)
        return Exchange(
            tokens=none, slots=none, at=at, weights=weights, sent=sent, received=received, blocks=[]
        )

    def _incoming(self, sizes: Sizes) -> Tensor:
        """Return [S, e] int64, the rows from each rank for each expert of this one."""
        experts = self.experts_of[self.group.rank]
        by_rank = [[row[e] for e in experts] for row in sizes.rows]
        return torch.tensor(by_rank, dtype=torch.int64).view(len(by_rank), len(experts))

    def _sent(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the rows that this rank sends to each."""
        own = sizes.rows[self.group.rank]
        return tuple(sum(own[e] for e in experts) for experts in self.experts_of)

    def _local_ids(self, device: torch.device) -> Tensor:
        """Return [S, E] int64, the local id of an expert on each rank of the group; -1 = none."""
        table = torch.full((len(self.experts_of), self._num_experts), -1, dtype=torch.int64)
        for i, experts in enumerate(self.experts_of):
            table[i, list(experts)] = torch.arange(len(experts))
        return table.to(device)

    def _exchanged(
        self, x: Activations, routing: Routing, way: Exchange, sizes: Sizes, own: Postponed
    ) -> _Arrived:
        """Return the rows that arrive here, by the rank that sent them. Collective."""
        rows = sum(way.sent)

        def exchanged(make: Callable[[], Tensor], otherwise: Callable[[], Tensor]) -> Tensor:
            return self.group.all_to_all(own.made(make, otherwise), way.sent, way.received)

        def picked(t: Tensor) -> Tensor:
            return exchanged(lambda: as_bytes(t)[way.tokens].view(t.dtype), lambda: filled(t, rows))

        columns = 2 if routing.adapters is None else 3
        numbers = exchanged(
            lambda: self._numbers(routing, way, sizes),
            lambda: routing.topk_ids.new_full((rows, columns), -1, dtype=torch.int32),
        )
        scale = x.scale
        if scale is not None and x.format.has_row_scales:
            scale = picked(scale)
        return _Arrived(numbers=numbers, x=x.replace(codes=picked(x.codes), scale=scale))

    def _numbers(self, routing: Routing, way: Exchange, sizes: Sizes) -> Tensor:
        """Return [rows, 2 (+ 1)] int32: token, slot, adapter of each row."""
        start = sum(sizes.counts[: self.group.rank])
        numbers = [(way.tokens + start).int(), way.slots.int()]
        if routing.adapters is not None:
            numbers.append(routing.adapters[way.tokens].int())
        return torch.stack(numbers, dim=1)

    def _dispatched(self, arrived: _Arrived, way: Exchange, sizes: Sizes, room: int) -> Dispatched:
        """Return the blocks with what arrived."""
        experts, x = self.experts_of[self.group.rank], arrived.x
        rows, device = len(experts) * room, x.codes.device
        table = arrived.numbers.new_full((rows, arrived.numbers.shape[1]), -1)
        table[way.at] = arrived.numbers
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
                adapters=table[:, 2].contiguous() if table.shape[1] > 2 else None,
            ),
            counts=sizes.counts,
            tokens=table[:, 0].contiguous(),
            slots=table[:, 1].contiguous(),
            block_counts=torch.tensor(counts, dtype=torch.int32, device=device),
            state=way,
        )

    def _unknown_blocks(
        self, arrived: _Arrived, way: Exchange, sizes: Sizes, rows: int
    ) -> Dispatched:
        """Return what `finalize` needs of a call whose blocks could not be made."""
        nobody = Routing(
            topk_ids=arrived.numbers.new_full((rows, 1), -1),
            topk_weights=way.weights.new_zeros((rows, 1)),
        )
        x = arrived.x.replace(codes=filled(arrived.x.codes, rows), scale=None)
        return Dispatched(x=x, routing=nobody, counts=sizes.counts, state=way)

    def _in_blocks(self, x: Tensor, way: Exchange, rows: int) -> Tensor:
        """Return the blocks of what arrived, x, [rows, C]; unused rows are not written."""
        lease = self._workspace.take((rows, x.shape[1]), x.dtype, x.device)
        as_bytes(lease.tensor)[way.at] = as_bytes(x)
        way.blocks.append(lease)
        return lease.tensor

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        own, way = Postponed(), dispatched.state
        nan = torch.nan
        sums = own.made(lambda: partial[way.at], lambda: filled(partial, sum(way.received), nan))
        back = self.group.all_to_all(sums, way.received, way.sent)
        for block in way.blocks:
            self._workspace.give_back(block)
        out = own.made(lambda: _weighed(back, way), lambda: back)
        own.end()
        return out


def _weighed(back: Tensor, way: Exchange) -> Tensor:
    """Return the sums [T, K] of the outputs that came back, each by its weight."""
    tokens, k = way.weights.shape
    outputs = torch.zeros((tokens * k, back.shape[1]), device=back.device)
    # Ranks that share an expert's columns each send a part: distinct rows, in a fixed order.
    start = 0
    for count in way.sent:
        part = slice(start, start + count)
        outputs.index_add_(0, way.tokens[part] * k + way.slots[part], back[part].float())
        start += count
    weighted = outputs.view(tokens, k, back.shape[1]) * way.weights[:, :, None]
    return weighted.sum(dim=1).to(back.dtype)


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
