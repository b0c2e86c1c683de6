"""Add what zero-computation experts return: the token itself, times its router weight.

The router chooses them by the ids after the routed experts'. No rank holds them, so that the
experts see -1 in their slots. Each rank adds them for its own tokens after the sum over the TP
ranks, which would count them once for each rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Routing


def with_zero_experts(out: Tensor, x: Tensor, routing: Routing, first: int) -> Tensor:
    """Return out + w * x, [T, K], in float32 and rounded once to the dtype of out.

    out, x: [T, K]. routing: [T, k]; w is the sum of a token's weights of ids from `first` on.
    """
    weights = torch.where(routing.topk_ids >= first, routing.topk_weights, 0.0)
    return (out.float() + weights.sum(dim=1, keepdim=True) * x.float()).to(out.dtype)
