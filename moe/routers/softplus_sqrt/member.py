"""The router of square roots of softplus, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn.functional import softplus

from moe.expert_choice import choose

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Routing


class SoftplusSqrtTopK:
    """Score each expert by sqrt(log(1 + exp(logit))), and select the k highest scores."""

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool, **options: Any) -> Routing:
        scores = softplus(logits.float()).sqrt()
        return choose(scores, top_k, renormalize=renormalize, **options)
