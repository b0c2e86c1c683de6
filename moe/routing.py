"""Route tokens: the gate's logits, the router's call, padding, weights on the input, local ids.

`moe.routing_method` says what a method's parts mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from moe.errors import MoEError
from moe.types import TORCH_DTYPE, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.routers.base import Router
    from moe.routing_method import RoutingMethod


@dataclass(frozen=True, kw_only=True)
class RouterWeights:
    """Hold the weights of a router: gate [E, K] and correction bias [E] float32, None if absent."""

    gate: Tensor | None = None
    bias: Tensor | None = None

    def logits(self, x: Tensor, logits: Tensor | None, method: RoutingMethod) -> Tensor:
        """Return the router logits [T, E]: those of the gate, or the given ones if there is none.

        x: [T, K]. Raises MoEError without a gate and without logits.
        """
        if self.gate is not None:
            named = TORCH_DTYPE.get(method.logits_dtype, x.dtype)
            return (x.float() @ self.gate.float().T).to(named)
        if logits is None:
            raise MoEError("the layer has no gate and got no router logits; pass one of them")
        return logits


NO_WEIGHTS = RouterWeights()


def route(
    router: Router, method: RoutingMethod, logits: Tensor, bias: Tensor | None = None
) -> Routing:
    """Return the routing of these logits [T, E]. bias: [E] float32, if the method has one.

    Raises MoEError for a method with a bias if there is none, and for a router that returns
    anything but ids and weights, [T, k].
    """
    if method.bias and bias is None:
        raise MoEError("the routing method has a bias, and it is None: pass it in RouterWeights")
    options = method.arguments(bias)
    routing = router(logits, method.top_k, renormalize=method.renormalize, **options)
    _check_routing(router, routing, [len(logits), method.top_k])
    return routing


def _check_routing(router: Router, routing: object, shape: list[int]) -> None:
    """Raise MoEError for another type, another shape [T, k], and ids and weights exchanged."""
    name = type(router).__name__
    if not isinstance(routing, Routing):
        rule = "it must return moe.types.Routing(topk_ids=..., topk_weights=...)"
        raise MoEError(f"router {name} returned a {type(routing).__name__}; {rule}")
    ids, weights = routing.topk_ids, routing.topk_weights
    shapes = [list(ids.shape), list(weights.shape)]
    if shapes != [shape, shape]:
        rule = f"both must be [T, k] = {shape}"
        raise MoEError(f"router {name} returned ids {shapes[0]} and weights {shapes[1]}; {rule}")
    if ids.is_floating_point() or not weights.is_floating_point():
        rule = "ids must be torch.int32 and weights torch.float32: are they exchanged?"
        raise MoEError(
            f"router {name} returned ids in {ids.dtype}, weights {weights.dtype}; {rule}"
        )


def without_padding(routing: Routing, is_padding: Tensor | None) -> Routing:
    """Return the routing with ids of -1 and weights of 0 in padding rows. is_padding: [T] bool."""
    if is_padding is None:
        return routing
    rows = is_padding[:, None]
    return replace(
        routing,
        topk_ids=routing.topk_ids.masked_fill(rows, -1),
        topk_weights=routing.topk_weights.masked_fill(rows, 0.0),
    )


def weights_on_input(x: Tensor, routing: Routing) -> tuple[Tensor, Routing]:
    """Return x [T, K] times each token's only weight, and the routing with weights of 1.

    The product is computed in float32 and rounded to the dtype of x. Raises MoEError for several
    experts per token.
    """
    if routing.topk_ids.shape[1] != 1:
        k = routing.topk_ids.shape[1]
        raise MoEError(f"weights on the input need one expert per token, not {k}; use top_k 1")
    weighted = (x.float() * routing.topk_weights).to(x.dtype)
    return weighted, replace(routing, topk_weights=torch.ones_like(routing.topk_weights))


def zeroed_padding(x: Tensor, topk_ids: Tensor) -> Tensor:
    """Return x [G, K] with zeros in rows without an expert, so that no scale depends on them."""
    return x.masked_fill((topk_ids < 0).all(dim=1, keepdim=True), 0.0)


def to_local_ids(topk_ids: Tensor, expert_map: Tensor) -> Tensor:
    """Return the local ids, [T, k]; -1 = not on this rank, or not an expert.

    topk_ids: [T, k] global ids; -1 = padding. expert_map: [E], global id -> local id or -1.
    """
    known = (topk_ids >= 0) & (topk_ids < len(expert_map))
    return torch.where(known, expert_map[topk_ids.where(known, 0).long()], -1)
