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


class AllToAll(PrepareFinalize):
    """Send tokens to the ranks of their experts only, quantized before they are sent."""

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        held = self.held_by(routing.topk_ids)
        ranks, tokens = held.any(dim=2).nonzero(as_tuple=True)
        sent = tuple(torch.bincount(ranks, minlength=self.group.size).tolist())
        sizes = exchange(
            self.group, x, routing, sent, capacity=self.capacity, experts_of=self.experts_of
        )
        received = tuple(row[self.group.rank] for row in sizes.rows)
        way = Exchange(tokens=tokens, sent=sent, received=received)
        numbers = self._numbers(routing, held[ranks, tokens], tokens, sizes.counts)
        arrived = self.group.all_to_all(numbers, sent, received)
        scale, k = x.scale, routing.topk_ids.shape[1]
        if scale is not None and x.format.has_row_scales:
            scale = self._sent(scale, way)
        return Dispatched(
            x=x.replace(codes=self._sent(x.codes, way), scale=scale),
            routing=Routing(
                topk_ids=arrived[:, 1 : 1 + k].contiguous(),
                topk_weights=arrived[:, 1 + k : 1 + 2 * k].contiguous().view(torch.float32),
                adapters=None if routing.adapters is None else arrived[:, -1].contiguous(),
            ),
            counts=sizes.counts,
            tokens=arrived[:, 0].contiguous(),
            state=way,
        )

    def _numbers(
        self, routing: Routing, held: Tensor, tokens: Tensor, counts: tuple[int, ...]
    ) -> Tensor:
        """Return [rows, 1 + 2k (+ 1)] int32: token, ids, bits of the weights, adapter of each row.

        held: [rows, k] bool, the slots whose expert the receiving rank holds.
        """
        start = sum(counts[: self.group.rank])
        ids = torch.where(held, routing.topk_ids[tokens].int(), -1)
        weights = routing.topk_weights[tokens].float().contiguous().view(torch.int32)
        columns = [(tokens + start).int()[:, None], ids, weights]
        if routing.adapters is not None:
            columns.append(routing.adapters[tokens].int()[:, None])
        return torch.cat(columns, dim=1)

    def _sent(self, x: Tensor, way: Exchange) -> Tensor:
        """Return the rows that arrive here of the ranks' tensors x, [T, C] of this rank."""
        rows = as_bytes(x)[way.tokens].view(x.dtype)
        return self.group.all_to_all(rows, way.sent, way.received)

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        way: Exchange = dispatched.state
        back = self.group.all_to_all(partial, way.received, way.sent)
        tokens = dispatched.counts[self.group.rank]
        total = torch.zeros((tokens, back.shape[1]), dtype=torch.float32, device=back.device)
        # A rank has a token at most once, so that each call adds distinct rows, in a fixed order.
        start = 0
        for count in way.sent:
            part = slice(start, start + count)
            total.index_add_(0, way.tokens[part], back[part].float())
            start += count
        return total.to(partial.dtype)
