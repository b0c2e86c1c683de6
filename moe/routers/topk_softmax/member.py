"""The router that takes the softmax over the chosen logits only, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.expert_choice import weighed

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Routing


class TopKSoftmax:
    """Select the k highest logits, and weigh them by their softmax, which sums to one."""

    def __call__(
        self, logits: Tensor, top_k: int, *, renormalize: bool, scale: float = 1.0
    ) -> Routing:
        del renormalize  # the weights sum to one anyway
        logits_of_chosen, ids = logits.float().topk(top_k, dim=-1)
        return weighed(torch.softmax(logits_of_chosen, dim=-1), ids, renormalize=False, scale=scale)
