"""Compute experts by torchtitan's `GroupedExperts`, between its local dispatcher's two halves.

The dispatcher expects every slot to have an expert. Each (token, slot) pair with an expert on this
rank is therefore dispatched as a token of its own, and combined under the index of its token.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from moe.experts.base import Experts

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights, Routing


class TorchtitanExperts(Experts):
    """Call the released modules with this rank's weights."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Make the module around gate, up and down, each a tensor of its own."""
        from torchtitan.models.common.moe import GroupedExperts
        from torchtitan.models.common.token_dispatcher import LocalTokenDispatcher

        config = GroupedExperts.Config(
            dim=self.layer_spec.hidden,
            hidden_dim=weights.w2.shape[2],
            num_experts=self.num_local,
        )
        with torch.device("meta"):
            self._experts = GroupedExperts(config)
        gate, up = weights.w13.chunk(2, dim=1)
        tensors = {"w1_EFD": gate, "w3_EFD": up, "w2_EDF": weights.w2}
        for name, tensor in tensors.items():
            parameter = torch.nn.Parameter(tensor.contiguous(), requires_grad=False)
            setattr(self._experts, name, parameter)
        # Each pair is a token with one expert.
        self._dispatcher = LocalTokenDispatcher(
            LocalTokenDispatcher.Config(num_experts=self.num_local, top_k=1)
        )

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        token, slot = (routing.topk_ids >= 0).nonzero(as_tuple=True)
        if len(token) == 0:
            return torch.zeros_like(x.codes)
        ids = routing.topk_ids[token, slot].long()
        rows, counts, sent = self._dispatcher.dispatch(
            x.codes[token],
            routing.topk_weights[token, slot, None],
            ids[:, None],
            torch.bincount(ids, minlength=self.num_local),
        )
        of_token = token[sent.token_indices_experts_sorted_N]
        sent = replace(sent, token_indices_experts_sorted_N=of_token)
        out: Tensor = self._dispatcher.combine(self._experts(rows, counts), sent, x.codes)
        return out
