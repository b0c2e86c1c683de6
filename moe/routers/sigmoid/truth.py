"""Compute sigmoid routing in float64, for the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class SigmoidTruth:
    """Compare scores and not logits, since the scores of large logits are all 1 in float32."""

    gap = 1 / 16

    def scores(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits.double())

    def choose(self, logits: Tensor, top_k: int) -> Tensor:
        order = torch.argsort(logits.double(), dim=-1, descending=True, stable=True)
        return order[:, :top_k].to(torch.int32)

    def weights(self, logits: Tensor, topk_ids: Tensor, *, renormalize: bool) -> Tensor:
        weights = torch.sigmoid(logits.double().gather(1, topk_ids.long()))
        if renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights.float()

    def is_valid(self, logits: Tensor, is_selected: Tensor, noise: float) -> Tensor:
        scores = torch.sigmoid(logits.double())
        lowest = scores.masked_fill(~is_selected, torch.inf).amin(dim=1)
        highest = scores.masked_fill(is_selected, 0.0).amax(dim=1)
        return ~(lowest < highest * (1 - noise))
