"""Routers in plain torch that round wherever they are told to, for tests of the judgement.

They cast with torch's own casts, and share nothing with the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import softplus

if TYPE_CHECKING:
    from torch import Tensor

    from moe.router_numerics import RouterNumerics
    from moe.spec import RoutingMethod

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class RoundedRouter:
    """Route by a method, and keep each value in the dtype that the numerics state."""

    method: RoutingMethod
    numerics: RouterNumerics
    model: str = "bf16"
    bias: Tensor | None = None

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return (ids [T, k], weights [T, k] float32) of logits [T, E]."""
        known = {"logits": logits.dtype, "model": DTYPES[self.model], **DTYPES}

        def kept(place, values, *made_of):
            stated = getattr(self.numerics, place)
            if stated != "same":
                return values.to(known[stated])
            same = made_of[0].dtype
            for other in made_of[1:]:
                same = torch.promote_types(same, other.dtype)
            return values.to(same)

        scores = _scores(logits.float(), self.method.router, kept)
        keys = kept("keys", scores, scores)
        if self.bias is not None:
            keys = kept("keys", scores.float() + self.bias, scores, self.bias)
        if self.method.is_limited:
            keys = _in_best_groups(keys, self.method, kept)
        ids = keys.topk(self.method.top_k, dim=1).indices
        own = scores.gather(1, ids)
        return ids, self._weights(kept("chosen", own, own), kept).float()

    def _weights(self, own: Tensor, kept) -> Tensor:
        weights = kept("weights", own, own)
        if self.method.renormalize:
            summed = own.float().sum(dim=1, keepdim=True)
            total = kept("total", summed, own)
            weights = kept("weights", own.float() / total.float(), own, total)
        return kept("scaled", weights.float() * self.method.scale, weights)


def _scores(logits: Tensor, router: str, kept) -> Tensor:
    if router == "softplus_sqrt":
        return kept("scores", kept("inner", softplus(logits)).float().sqrt())
    of = {"softmax": lambda values: values.softmax(dim=1), "sigmoid": torch.sigmoid}
    return kept("scores", of[router](logits))


def _in_best_groups(keys: Tensor, method: RoutingMethod, kept) -> Tensor:
    by_group = keys.view(len(keys), method.groups, -1)
    best = by_group.float().topk(min(2, by_group.shape[2]), dim=2).values.sum(dim=2)
    chosen = kept("groups", best, keys).topk(method.chosen_groups, dim=1).indices
    keep = torch.zeros_like(best, dtype=torch.bool).scatter_(1, chosen, True)
    return by_group.masked_fill(~keep[:, :, None], -torch.inf).view(keys.shape)
