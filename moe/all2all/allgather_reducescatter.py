"""Gather all tokens before the experts, reduce-scatter their outputs. Supports every scheme.

Ranks may hold different numbers of tokens, including 0. Rows are padded to the largest number;
padding rows have `topk_ids == -1`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.all2all.base import PrepareFinalize, zeroed_padding
from moe.all2all.sizes import exchange
from moe.byte_views import as_bytes
from moe.failed_call import Postponed, filled
from moe.types import Dispatched, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations


class AllGatherReduceScatter(PrepareFinalize):
    """Send every token to every rank, and return to each rank the sums of its own tokens."""

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        group = self.group
        counts = exchange(
            group, x, routing, capacity=self.capacity, experts_of=self.experts_of
        ).counts
        rows, own = max(counts), Postponed()

        def gathered(t: Tensor, padding: float = 0) -> Tensor:
            sent = own.made(lambda: _padded(t, rows, padding), lambda: filled(t, rows, padding))
            return group.all_gather(sent)

        codes, scale, adapters = gathered(x.codes), x.scale, routing.adapters
        if (
            scale is not None and x.format.has_row_scales
        ):  # a scale of all rows is equal on every rank
            scale = gathered(scale)
        of_all = Routing(
            topk_ids=gathered(routing.topk_ids, -1),
            topk_weights=gathered(routing.topk_weights),
            adapters=None if adapters is None else gathered(adapters, -1),
        )
        sent = x.replace(codes=codes, scale=scale)
        return Dispatched(x=sent, routing=of_all, counts=counts, error=own.error)

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        own = Postponed()
        safe = own.made(
            lambda: zeroed_padding(partial, dispatched.routing),
            lambda: torch.full_like(partial, torch.nan),
        )
        local_sum = self.group.reduce_scatter(safe)
        own.end()
        return local_sum[: dispatched.counts[self.group.rank]]


def _padded(x: Tensor, rows: int, value: float = 0) -> Tensor:
    """Return x, padded at its end to this number of rows by `value`."""
    missing = rows - x.shape[0]
    if missing == 0:
        return x
    bits = as_bytes(x)
    filler = bits.new_full((missing, *x.shape[1:]), value)
    return torch.cat([bits, filler]).view(x.dtype)
