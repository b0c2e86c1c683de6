"""Define the base class of experts backends: weights once, then tokens in and a partial sum out.

A backend is *modular* and *standard* (see `kind` and `dispatch_format` in `moe.spec`): it gets
contiguous tokens with their routing and returns the weighted sum over this rank's experts. The
all2all backend sums over ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from moe.activations import ACTIVATIONS
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    from torch import Tensor

    from moe.activations.base import Activation
    from moe.quant.base import QuantMethod
    from moe.spec import LayerSpec, Numerics
    from moe.types import Activations, Dispatched, ExpertWeights, Routing


class Experts(ABC):
    """Compute the experts of one rank. `numerics`: as declared by the member's row."""

    def __init__(
        self, layer_spec: LayerSpec, rank: int, numerics: Numerics, quant: QuantMethod
    ) -> None:
        self.layer_spec = layer_spec
        self.rank = rank
        self.numerics = numerics
        self.quant = quant
        self.dtype = TORCH_DTYPE[layer_spec.dtype]  # of the output
        self.activation: Activation = ACTIVATIONS.load(layer_spec.activation)()
        self.gated = ACTIVATIONS.row(layer_spec.activation).gated
        self.num_local = len(layer_spec.experts_of(rank))

    @abstractmethod
    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep this rank's shard, converted to the backend's own order and memory layout.

        weights: w13 in [gate; up] order; e experts of this rank, n of its intermediate columns.
        """

    def activate(self, product: Tensor) -> Tensor:
        """Return the layer's activation [R, n] in float32.

        product: [R, 2n], [gate; up] along 2n, or [R, n] if the activation is not gated.
        """
        if not self.gated:
            return self.activation(product.float(), None)
        gate, up = product.float().chunk(2, dim=1)
        return self.activation(gate, up)

    def run(self, dispatched: Dispatched) -> Tensor:
        """Call `apply` for what an all2all backend prepared, with ids converted to local ones."""
        return self.apply(dispatched.x, dispatched.routing)

    @abstractmethod
    def apply(self, x: Activations, routing: Routing) -> Tensor:
        """Return [T, K] in the model dtype: the sum over this rank's experts of weight * expert(x).

        x: [T, K] activations, quantized by `quant.quantize_input` (T may be 0).
        routing.topk_ids: [T, k] int32 *local* ids, -1 = not on this rank, or padding. The output of
        a token whose ids are all -1 must be zeros, since other ranks' outputs are added to it.
        """
