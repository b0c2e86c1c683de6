"""The sigmoid router of the stack, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moe.expert_choice import choose

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Routing


class SigmoidTopK:
    """Score each expert by the sigmoid of its own logit, and select the k highest scores."""

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool, **options: Any) -> Routing:
        scores = torch.sigmoid(logits.float())
        return choose(scores, top_k, renormalize=renormalize, **options)
