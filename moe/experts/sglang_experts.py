"""Compute experts by SGLang's functions in torch, which it calls where it has no kernel.

Neither knows an id of -1, so that a rank must hold all experts, and padding rows get the first
experts, each once, with weight 0. A call without tokens is passed on like any other.
"""

from __future__ import annotations

from abc import abstractmethod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from moe.experts.base import Experts

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights, Routing


class SglangExperts(Experts):
    """Hold the weights as SGLang's layer does: [gate; up] is its own order."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Make what SGLang's functions read of its layer around the weights as they are."""
        self.config = SimpleNamespace(
            activation="silu",
            apply_router_weight_on_input=False,
            gemm1_alpha=None,
            gemm1_clamp_limit=None,
        )
        self.layer = SimpleNamespace(
            num_experts=self.num_local,
            w13_weight=weights.w13,
            w2_weight=weights.w2,
            moe_runner_config=self.config,
        )

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        ids, weights = routing.topk_ids, routing.topk_weights
        slots = torch.arange(ids.shape[1], dtype=ids.dtype, device=ids.device)
        is_padding = ids < 0
        chosen = weights.masked_fill(is_padding, 0.0), torch.where(is_padding, slots, ids), None
        return self.computed(x.codes, chosen)

    @abstractmethod
    def computed(self, x: Tensor, chosen: tuple[Tensor, Tensor, None]) -> Tensor:
        """Return the output [T, K]. chosen: weights and ids [T, k], and no logits."""


class SglangLoop(SglangExperts):
    """Call `moe_forward_native`, one expert after the other."""

    def computed(self, x: Tensor, chosen: tuple[Tensor, Tensor, None]) -> Tensor:
        from moe import sglang_functions

        out: Tensor = sglang_functions.moe_forward(self.layer, x, chosen, self.config)
        return out


class SglangGathered(SglangExperts):
    """Call `fused_moe_forward_native`, which gathers the weights of each slot."""

    def computed(self, x: Tensor, chosen: tuple[Tensor, Tensor, None]) -> Tensor:
        from moe import sglang_functions

        dispatched: Any = SimpleNamespace(hidden_states=x, topk_output=chosen)
        out: Tensor = sglang_functions.fused_moe_forward(self.layer, dispatched)["hidden_states"]
        return out
