"""Compute the softmax over the chosen logits in float64, for the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class TopKSoftmaxTruth:
    """Compare logits. The weights are those of a softmax over all experts, renormalised."""

    gap = 1 / 16

    def choose(self, logits: Tensor, top_k: int) -> Tensor:
        order = torch.argsort(logits.double(), dim=-1, descending=True, stable=True)
        return order[:, :top_k].to(torch.int32)

    def weights(self, logits: Tensor, topk_ids: Tensor, *, renormalize: bool) -> Tensor:
        del renormalize  # they sum to one anyway
        return torch.softmax(logits.double().gather(1, topk_ids.long()), dim=-1).float()

    def is_valid(self, logits: Tensor, is_selected: Tensor, noise: float) -> Tensor:
        lowest = logits.masked_fill(~is_selected, torch.inf).amin(dim=1)
        highest = logits.masked_fill(is_selected, -torch.inf).amax(dim=1)
        return ~(lowest < highest - noise * highest.abs())
