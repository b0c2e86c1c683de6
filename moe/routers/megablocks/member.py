"""MegaBlocks' router, from its scores on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor


class MegablocksSoftmax:
    """Call `LearnedRouter`, whose gate returns its input: that are the logits.

    Scores and weights have the dtype of the logits.
    """

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool) -> Routing:
        from moe.megablocks_parts import Arguments, LearnedRouter

        experts = logits.shape[1]
        arguments = Arguments(
            hidden_size=experts,
            moe_num_experts=experts,
            moe_top_k=top_k,
            moe_normalize_expert_weights=1 if renormalize else None,  # the norm to divide by
            mlp_impl="none",  # both that there are need more than a router does
            device="meta",  # of the gate's weight, which is not used
        )
        router = LearnedRouter(arguments).eval()
        router.layer = torch.nn.Identity()
        _, weights, ids = router(logits)
        return Routing(topk_ids=ids.to(torch.int32), topk_weights=weights.float())
