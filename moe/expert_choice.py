"""Choose experts by their scores, and weigh them: what the routers of the stack have in common.

`moe.routing_method` says what the options mean. The choice between equal values is undefined. A NaN
counts as the highest value, so that it shows in the weights instead of being lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor


def choose(
    scores: Tensor,
    top_k: int,
    *,
    renormalize: bool,
    bias: Tensor | None = None,
    groups: int = 1,
    chosen_groups: int = 1,
    scale: float = 1.0,
) -> Routing:
    """Return the routing by scores [T, E] float32. bias: [E] float32, for the choice alone."""
    keys = scores if bias is None else scores + bias
    if chosen_groups < groups:
        keys = without_other_groups(keys, groups, chosen_groups)
    ids = keys.topk(top_k, dim=-1).indices
    return weighed(scores.gather(1, ids), ids, renormalize=renormalize, scale=scale)


def without_other_groups(keys: Tensor, groups: int, chosen_groups: int) -> Tensor:
    """Return keys [T, E] with -inf for the experts outside of the best groups.

    A group's score is the sum of its two highest keys.
    """
    by_group = keys.view(len(keys), groups, keys.shape[1] // groups)
    best = by_group.topk(min(2, by_group.shape[2]), dim=2).values.sum(dim=2)
    kept = torch.zeros_like(best, dtype=torch.bool)
    kept.scatter_(1, best.topk(chosen_groups, dim=1).indices, True)
    return by_group.masked_fill(~kept[:, :, None], -torch.inf).view(keys.shape)


def weighed(weights: Tensor, ids: Tensor, *, renormalize: bool, scale: float = 1.0) -> Routing:
    """Return the routing of the chosen ids [T, k] with their weights, normalised and scaled."""
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    if scale != 1.0:
        weights = weights * scale
    return Routing(topk_ids=ids.to(torch.int32), topk_weights=weights)
