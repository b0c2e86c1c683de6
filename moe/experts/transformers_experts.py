"""Compute experts by transformers' Qwen3-MoE module, under each of its implementations.

Slots of other ranks' experts get the id after the last expert and weight 0, as transformers' own
expert parallelism does. Without expert parallelism only padding rows have such slots, and the
module knows no such id: they get expert 0 with weight 0, since no one reads their output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moe import released
from moe.experts.base import Experts

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights, Routing


class TransformersExperts(Experts):
    """Call `Qwen3MoeExperts` with this rank's weights."""

    implementation: str  # as transformers names it

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Make the module around the weights as they are: [gate; up] is its own order."""
        from transformers.models.qwen3_moe import configuration_qwen3_moe, modeling_qwen3_moe

        config = configuration_qwen3_moe.Qwen3MoeConfig(
            hidden_size=self.layer_spec.hidden,
            moe_intermediate_size=weights.w2.shape[2],
            num_experts=self.num_local,
            num_experts_per_tok=self.layer_spec.top_k,
            hidden_act=released.ACTIVATION_NAMES[self.layer_spec.activation],
        )
        config._experts_implementation = self.implementation
        with torch.device("meta"):
            module: Any = modeling_qwen3_moe.Qwen3MoeExperts(config)
        module.gate_up_proj = torch.nn.Parameter(weights.w13, requires_grad=False)
        module.down_proj = torch.nn.Parameter(weights.w2, requires_grad=False)
        module._is_expert_parallel = self.layer_spec.layout.use_ep  # read since 5.18
        self._module = module
        self._absent = self.num_local if self.layer_spec.layout.use_ep else 0

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        if (zeros := self.zeros_if_idle(x)) is not None:
            return zeros
        absent = routing.topk_ids < 0
        ids = routing.topk_ids.masked_fill(absent, self._absent).long()
        out: Tensor = self._module(x.codes, ids, routing.topk_weights.masked_fill(absent, 0.0))
        return out


class TransformersEager(TransformersExperts):
    """Loop over the experts."""

    implementation = "eager"


class TransformersBatchedMM(TransformersExperts):
    """Gather each slot's weights and call `torch.bmm`."""

    implementation = "batched_mm"


class TransformersGroupedMM(TransformersExperts):
    """Sort the slots by expert and call torch's grouped product."""

    implementation = "grouped_mm"
