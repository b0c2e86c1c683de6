"""The softmax router of the stack, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moe.expert_choice import choose

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Routing


class SoftmaxTopK:
    """Compute the softmax over all experts, and select the k highest weights."""

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool, **options: Any) -> Routing:
        scores = torch.softmax(logits.float(), dim=-1)
        return choose(scores, top_k, renormalize=renormalize, **options)
