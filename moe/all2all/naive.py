"""Broadcast every rank's tokens to all, and sum all outputs on every rank. Supports every scheme.

Nothing is padded: ranks may hold different numbers of tokens, including 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.all2all.base import PrepareFinalize, zeroed_padding
from moe.all2all.sizes import exchange
from moe.byte_views import joined
from moe.failed_call import Postponed, filled
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
        scale, adapters, own = x.scale, routing.adapters, Postponed()

        def gathered(t: Tensor) -> Tensor:
            parts = self._from_all(t, counts)
            return own.made(lambda: joined(parts), lambda: filled(t, sum(counts)))

        if scale is not None and x.format.has_row_scales:
            scale = gathered(scale)
        of_all = Routing(
            topk_ids=gathered(routing.topk_ids),
            topk_weights=gathered(routing.topk_weights),
            adapters=None if adapters is None else gathered(adapters),
        )
        sent = x.replace(codes=gathered(x.codes), scale=scale)
        return Dispatched(x=sent, routing=of_all, counts=counts, error=own.error)

    def _from_all(self, x: Tensor, counts: tuple[int, ...]) -> list[Tensor]:
        """Return the rows of each rank, in rank order. x: this rank's."""
        parts = []
        for root, count in enumerate(counts):
            is_own = root == self.group.rank
            part = x if is_own else x.new_empty((count, *x.shape[1:]))
            parts.append(self.group.broadcast(part, root) if count else part)
        return parts

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        own = Postponed()
        safe = own.made(
            lambda: zeroed_padding(partial, dispatched.routing),
            lambda: torch.full_like(partial, torch.nan),
        )
        total = self.group.all_reduce(safe)
        own.end()
        start = sum(dispatched.counts[: self.group.rank])
        return total[start : start + dispatched.counts[self.group.rank]]
