"""Send each token once to every rank that holds one of its experts, and add what comes back.

Ranks tell each other how many rows they send, then exchange rows of numbers (which token, its ids
and weights there), then codes and scales as they were quantized. Ids of experts of other ranks are
-1. The partial sums come back in the layer's dtype; each is added in float32, in the order of the
ranks that computed them, and the total is rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.all2all.base import PrepareFinalize
from moe.all2all.sizes import exchange
from moe.byte_views import as_bytes
from moe.failed_call import Postponed, filled
from moe.types import Dispatched, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Hold who sends what. sent, received: rows for and from each rank of the group.

    tokens: [sum of sent] int64, this rank's token of each row that it sends, by receiving rank.
    """

    tokens: Tensor
    sent: tuple[int, ...]
    received: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Goes:
    """tokens, sent: as in `Exchange`. held: [sum of sent, k] bool, slots whose expert is there."""

    tokens: Tensor
    held: Tensor
    sent: tuple[int, ...]


class AllToAll(PrepareFinalize):
    """Send tokens to the ranks of their experts only, quantized before they are sent."""

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        self.known_holders(x.codes.device)  # without them it fails on every rank
        own = Postponed()
        goes = own.made(lambda: self._goes(routing), lambda: self._goes_nowhere(routing))
        sizes = exchange(
            self.group, x, routing, goes.sent, capacity=self.capacity, experts_of=self.experts_of
        )
        received = tuple(row[self.group.rank] for row in sizes.rows)
        way = Exchange(tokens=goes.tokens, sent=goes.sent, received=received)
        numbers = own.made(
            lambda: self._numbers(routing, goes, sizes.counts),
            lambda: _no_numbers(routing, sum(goes.sent)),
        )
        arrived = self.group.all_to_all(numbers, way.sent, way.received)

        def exchanged(t: Tensor) -> Tensor:
            rows = own.made(lambda: _picked(t, way.tokens), lambda: filled(t, sum(way.sent)))
            return self.group.all_to_all(rows, way.sent, way.received)

        scale, k = x.scale, routing.topk_ids.shape[1]
        if scale is not None and x.format.has_row_scales:
            scale = exchanged(scale)
        return Dispatched(
            x=x.replace(codes=exchanged(x.codes), scale=scale),
            routing=Routing(
                topk_ids=arrived[:, 1 : 1 + k].contiguous(),
                topk_weights=arrived[:, 1 + k : 1 + 2 * k].contiguous().view(torch.float32),
                adapters=None if routing.adapters is None else arrived[:, -1].contiguous(),
            ),
            counts=sizes.counts,
            tokens=arrived[:, 0].contiguous(),
            state=way,
            error=own.error,
        )

    def _goes(self, routing: Routing) -> _Goes:
        """Return which rows go to which rank."""
        held = self.held_by(routing.topk_ids)
        ranks, tokens = held.any(dim=2).nonzero(as_tuple=True)
        sent = tuple(torch.bincount(ranks, minlength=self.group.size).tolist())
        return _Goes(tokens=tokens, held=held[ranks, tokens], sent=sent)

    def _goes_nowhere(self, routing: Routing) -> _Goes:
        empty = routing.topk_ids.new_zeros(0, dtype=torch.int64)
        held = routing.topk_ids.new_zeros((0, routing.topk_ids.shape[1]), dtype=torch.bool)
        return _Goes(tokens=empty, held=held, sent=(0,) * self.group.size)

    def _numbers(self, routing: Routing, goes: _Goes, counts: tuple[int, ...]) -> Tensor:
        """Return [rows, 1 + 2k (+ 1)] int32: token, ids, bits of the weights, adapter of each."""
        tokens, start = goes.tokens, sum(counts[: self.group.rank])
        ids = torch.where(goes.held, routing.topk_ids[tokens].int(), -1)
        weights = routing.topk_weights[tokens].float().contiguous().view(torch.int32)
        columns = [(tokens + start).int()[:, None], ids, weights]
        if routing.adapters is not None:
            columns.append(routing.adapters[tokens].int()[:, None])
        return torch.cat(columns, dim=1)

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        own, way = Postponed(), dispatched.state
        back = self.group.all_to_all(partial, way.received, way.sent)
        tokens = dispatched.counts[self.group.rank]
        out = own.made(lambda: _added(back, way, tokens), lambda: back)
        own.end()
        return out


def _added(back: Tensor, way: Exchange, tokens: int) -> Tensor:
    """Return the sums [T, K] of the rows that came back."""
    total = torch.zeros((tokens, back.shape[1]), dtype=torch.float32, device=back.device)
    # A rank has a token at most once, so that each call adds distinct rows, in a fixed order.
    start = 0
    for count in way.sent:
        part = slice(start, start + count)
        total.index_add_(0, way.tokens[part], back[part].float())
        start += count
    return total.to(back.dtype)


def _picked(x: Tensor, tokens: Tensor) -> Tensor:
    """Return the rows of these tokens."""
    return as_bytes(x)[tokens].view(x.dtype)


def _no_numbers(routing: Routing, rows: int) -> Tensor:
    """Return what `_numbers` returns for rows that need no expert: ids -1, weights 0."""
    k, more = routing.topk_ids.shape[1], routing.adapters is not None
    ids = routing.topk_ids.new_full((rows, 1 + k), -1, dtype=torch.int32)
    weights, adapters = ids.new_zeros((rows, k)), ids.new_full((rows, int(more)), -1)
    return torch.cat([ids, weights, adapters], dim=1)
