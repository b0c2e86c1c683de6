"""Broadcast every rank's tokens to all, and sum all outputs on every rank. Supports every scheme.

Nothing is padded: ranks may hold different numbers of tokens, including 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.all2all.base import PrepareFinalize
from moe.all2all.sizes import exchange
from moe.byte_views import joined
from moe.types import Dispatched, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations


class Naive(PrepareFinalize):
    """Send every token to every rank by one broadcast a rank; all-reduce the outputs."""

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        counts = exchange(
            self.group, x, routing, capacity=self.capacity, experts_of=self.experts_of
        ).counts
        scale, adapters = x.scale, routing.adapters
        if scale is not None and x.format.has_row_scales:
            scale = self._from_all(scale, counts)
        gathered = Routing(
            topk_ids=self._from_all(routing.topk_ids, counts),
            topk_weights=self._from_all(routing.topk_weights, counts),
            adapters=None if adapters is None else self._from_all(adapters, counts),
        )
        sent = x.replace(codes=self._from_all(x.codes, counts), scale=scale)
        return Dispatched(x=sent, routing=gathered, counts=counts)

    def _from_all(self, x: Tensor, counts: tuple[int, ...]) -> Tensor:
        """Return the rows of all ranks in rank order. x: this rank's."""
        parts = []
        for root, count in enumerate(counts):
            is_own = root == self.group.rank
            part = x if is_own else x.new_empty((count, *x.shape[1:]))
            parts.append(self.group.broadcast(part, root) if count else part)
        return joined(parts)

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        real = dispatched.routing.topk_ids.amax(dim=1, keepdim=True) >= 0
        total = self.group.all_reduce(torch.where(real, partial, 0.0).to(partial.dtype))
        start = sum(dispatched.counts[: self.group.rank])
        return total[start : start + dispatched.counts[self.group.rank]]
