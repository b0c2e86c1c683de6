"""Compute experts by AITER's fused MoE on ROCm, unquantized.

It gets local ids with one expert more than there is, which `expert_mask` says is on another rank:
-1 is no id for it. Weights lie in its tiles of 16 rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moe.conversions import tiled
from moe.experts.base import Experts

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights, Routing

ACTIVATIONS = {"silu": "Silu", "gelu": "Gelu"}  # the layer's -> the name in AITER's enum


class AiterFusedExperts(Experts):
    """Call AITER's function for all local experts."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep tiled copies, w13 as [gate; up], which is AITER's order, too."""
        # Imported on use: planning works without AITER.
        import aiter as package
        from aiter import fused_moe

        self._aiter: Any = package
        self._fused_moe: Any = fused_moe
        self._weights = aiter_arguments(weights)
        mask = torch.ones(self.num_local + 1, dtype=torch.int32, device=weights.w13.device)
        mask[self.num_local] = 0
        self._expert_mask = mask

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        if (zeros := self.zeros_if_idle(x)) is not None:
            return zeros
        result: Tensor = self._fused_moe.fused_moe(x.codes, **self._arguments(routing))
        return result

    def _arguments(self, routing: Routing) -> dict[str, Any]:
        """Return the keyword arguments of the call. Enums by name: numbers differ by version."""
        absent = routing.topk_ids < 0
        return {
            **self._weights,
            "topk_weight": torch.where(absent, 0.0, routing.topk_weights),
            "topk_ids": torch.where(absent, self.num_local, routing.topk_ids).to(torch.int32),
            "expert_mask": self._expert_mask,
            "activation": getattr(
                self._aiter.ActivationType, ACTIVATIONS[self.layer_spec.activation]
            ),
            "quant_type": self._aiter.QuantType.No,
        }


def aiter_arguments(weights: ExpertWeights) -> dict[str, Tensor]:
    """Return tiled copies of the weights: w1 [e, 2n, K] and w2 [e, K, n]."""
    return {"w1": tiled(weights.w13.contiguous()), "w2": tiled(weights.w2.contiguous())}
