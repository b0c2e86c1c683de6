"""Route and compute experts in one backend, in torch: a monolithic backend that runs anywhere.

It gets router logits and tells nobody which experts it chose, as the fused kernels of serving
stacks do. The choice follows the layer's description of its routing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.experts.base import MonolithicExperts
from moe.quant.base import dequantize_activations, dequantize_weight

if TYPE_CHECKING:
    from torch import Tensor

    from moe.spec import RoutingMethod
    from moe.types import Activations, ExpertWeights


class TorchMonolithicExperts(MonolithicExperts):
    """Dequantize, multiply in float32, and round once, at the end."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep the weights unchanged, and the global ids of this rank's experts."""
        self.weights = weights
        self.local = self.layer_spec.experts_of(self.rank)

    def apply(self, x: Activations, logits: Tensor) -> Tensor:
        values = dequantize_activations(x)
        is_chosen, weights = dense_routing(logits, self.layer_spec.routing_method, self.router_bias)
        tokens = [is_chosen[:, e].nonzero()[:, 0] for e in self.local]
        total = torch.zeros(values.shape, dtype=torch.float32, device=values.device)
        for e, rows, h in zip(self.local, tokens, self._intermediates(values, tokens), strict=True):
            w2 = dequantize_weight(self.weights.down.expert(self.local.index(e)))
            y = h @ w2.T
            if self.weights.b2 is not None:
                y = y + self.weights.b2[self.local.index(e)].float()
            total[rows] += weights[rows, e, None] * y
        out = guarded_buffers.empty(total.shape, dtype=self.dtype, device=total.device)
        return out.copy_(total)

    def _intermediates(self, values: Tensor, tokens: list[Tensor]) -> list[Tensor]:
        """Return f(gate) * up of each local expert's tokens, as the second product reads it.

        All are quantized in one call, since a scale may be shared by the rows of many experts.
        values: [T, K] float32.
        """
        if not tokens:
            return []
        h = []
        for e, rows in enumerate(tokens):
            w13 = dequantize_weight(self.weights.gate_up.expert(e))  # one expert's copy at a time
            product = values[rows] @ w13.T
            if self.weights.b13 is not None:
                product = product + self.weights.b13[e].float()
            h.append(self.activate(product))
        joined = self.quant.quantize_intermediate(torch.cat(h), self.weights.a2_scale)
        return list(torch.split(dequantize_activations(joined), [len(rows) for rows in tokens]))


def dense_routing(
    logits: Tensor, method: RoutingMethod, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return which experts each token is sent to, [T, E] bool, and with which weights, float32.

    logits: [T, E]. bias: [E] float32, if the method has one. Raises MoEError for a router that this
    backend does not compute, and for a bias that is missing.
    """
    scores = _scores(logits.float(), method.router)
    if method.bias and bias is None:
        raise MoEError("the routing method has a bias, and router_bias is None: set it")
    ranked = scores + bias if method.bias and bias is not None else scores
    if method.is_limited:
        ranked = _in_best_groups(ranked, method)
    kept = ranked.topk(method.top_k, dim=-1).indices
    is_chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, kept, True)
    weights = torch.where(is_chosen, scores, 0.0)
    if method.renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return is_chosen, weights * method.scale


def _in_best_groups(ranked: Tensor, method: RoutingMethod) -> Tensor:
    """Return ranked [T, E] with -inf for experts outside of the best groups."""
    grouped = ranked.view(len(ranked), method.groups, ranked.shape[1] // method.groups)
    best = grouped.topk(min(2, grouped.shape[2]), dim=-1).values.sum(dim=-1)
    kept = best.topk(method.chosen_groups, dim=-1).indices
    is_kept = torch.zeros_like(best, dtype=torch.bool).scatter_(1, kept, True)
    return grouped.masked_fill(~is_kept[:, :, None], -torch.inf).view(ranked.shape)


def _scores(logits: Tensor, method: str) -> Tensor:
    if method not in METHODS:
        raise MoEError(
            f"torch_monolithic routes by {', '.join(METHODS)}, not {method!r}; name what it "
            "computes as `routers` in its row, and the layer is refused before it runs"
        )
    return METHODS[method](logits)


METHODS = {"softmax": lambda logits: torch.softmax(logits, dim=-1), "sigmoid": torch.sigmoid}
