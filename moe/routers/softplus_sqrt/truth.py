"""Compute routing by the square root of softplus in float64, for the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class SoftplusSqrtTruth:
    """Compare logits, since the score rises with them and never saturates above."""

    gap = 1 / 16

    def scores(self, logits: Tensor) -> Tensor:
        return self.outer(self.inner(logits))

    def inner(self, logits: Tensor) -> Tensor:
        wide = logits.double()
        return torch.logaddexp(wide, torch.zeros_like(wide))

    def outer(self, inner: Tensor) -> Tensor:
        return inner.sqrt()

    def choose(self, logits: Tensor, top_k: int) -> Tensor:
        order = torch.argsort(logits.double(), dim=-1, descending=True, stable=True)
        return order[:, :top_k].to(torch.int32)

    def weights(self, logits: Tensor, topk_ids: Tensor, *, renormalize: bool) -> Tensor:
        weights = self.scores(logits).gather(1, topk_ids.long())
        if renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights.float()

    def is_valid(self, logits: Tensor, is_selected: Tensor, noise: float) -> Tensor:
        lowest = logits.masked_fill(~is_selected, torch.inf).amin(dim=1)
        highest = logits.masked_fill(is_selected, -torch.inf).amax(dim=1)
        return ~(lowest < highest - noise * highest.abs())
