"""The sigmoid router of the stack, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor


class SigmoidTopK:
    """Score each expert by the sigmoid of its own logit, and select the k highest scores."""

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool) -> Routing:
        weights, ids = torch.sigmoid(logits.float()).topk(top_k, dim=-1)
        if renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return Routing(topk_ids=ids.to(torch.int32), topk_weights=weights)
