"""Sort (token, slot) rows by expert for products of ragged groups, and sum their outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Routing


def by_expert(topk_ids: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Return order [R] int64, flat (token, slot) rows by expert with -1 last, and ends [e] int32.

    ends: the exclusive end of each expert's rows in that order.
    """
    ids = topk_ids.reshape(-1)
    ordered, order = torch.where(ids < 0, experts, ids).sort(stable=True)
    local_ids = torch.arange(experts, dtype=ids.dtype, device=ids.device)
    return order, torch.searchsorted(ordered, local_ids, right=True).int()


def weighted_sum(y: Tensor, routing: Routing) -> Tensor:
    """Return the weighted sum over k, [T, K], in float32. y: [T, k, K]; -1 slots are not read."""
    used = (routing.topk_ids >= 0)[:, :, None]
    weighted = y.float() * routing.topk_weights[:, :, None]
    return torch.where(used, weighted, 0.0).sum(dim=1).to(y.dtype)
