"""The stack's own router: softmax, then top-k, with or without renormalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor


def softmax_topk(logits: Tensor, top_k: int, *, renormalize: bool) -> Routing:
    """logits: [T, E] any float dtype -> Routing of [T, k], weights in float32.

    The softmax runs over all experts before the choice; `renormalize` divides the chosen weights
    by their sum. Which of two equal logits wins is not defined.
    """
    weights, ids = torch.softmax(logits.float(), dim=-1).topk(top_k, dim=-1)
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return Routing(topk_ids=ids.to(torch.int32), topk_weights=weights)


def to_local_ids(topk_ids: Tensor, experts: range) -> Tensor:
    """[T, k] global ids -> local ids of a rank that has `experts`; -1 for all others."""
    local = topk_ids - experts.start
    return torch.where((local >= 0) & (local < len(experts)), local, -1)
