"""Gather all tokens before the experts, reduce-scatter their outputs. Supports every scheme.

Ranks may hold different numbers of tokens, including 0. Rows are padded to the largest number;
padding rows have `topk_ids == -1`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.all2all.base import PrepareFinalize
from moe.all2all.sizes import exchange
from moe.byte_views import as_bytes
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
        rows = max(counts)
        codes = group.all_gather(_padded(x.codes, rows))
        scale = x.scale
        if (
            scale is not None and x.format.has_row_scales
        ):  # a scale of all rows is equal on every rank
            scale = group.all_gather(_padded(scale, rows))
        gathered = Routing(
            topk_ids=group.all_gather(_padded(routing.topk_ids, rows, -1)),
            topk_weights=group.all_gather(_padded(routing.topk_weights, rows)),
            adapters=None
            if routing.adapters is None
            else group.all_gather(_padded(routing.adapters, rows, -1)),
        )
        sent = x.replace(codes=codes, scale=scale)
        return Dispatched(x=sent, routing=gathered, counts=counts)

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        real = dispatched.routing.topk_ids.amax(dim=1, keepdim=True) >= 0
        safe = torch.where(real, partial, 0.0)  # padding rows are undefined
        local_sum = self.group.reduce_scatter(safe.to(partial.dtype))
        return local_sum[: dispatched.counts[self.group.rank]]


def _padded(x: Tensor, rows: int, value: float = 0) -> Tensor:
    """Return x, padded at its end to this number of rows by `value`."""
    missing = rows - x.shape[0]
    if missing == 0:
        return x
    bits = as_bytes(x)
    filler = bits.new_full((missing, *x.shape[1:]), value)
    return torch.cat([bits, filler]).view(x.dtype)
