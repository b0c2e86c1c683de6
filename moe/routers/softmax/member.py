"""The softmax router of the stack, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor


class SoftmaxTopK:
    """Compute the softmax over all experts, and select the k highest weights."""

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool) -> Routing:
        weights, ids = torch.softmax(logits.float(), dim=-1).topk(top_k, dim=-1)
        if renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return Routing(topk_ids=ids.to(torch.int32), topk_weights=weights)
