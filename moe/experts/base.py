"""Define the base classes of experts backends: weights once, then tokens in and a partial sum out.

What a backend's row says of its `kind` and `dispatch_format` (see `moe.spec`) decides its class:

    Experts             modular, standard      gathered tokens with their routing
    BatchedExperts      modular, batched       the rows of each expert in a block of its own
    MonolithicExperts   monolithic, standard   gathered tokens with their router logits

Each returns the weighted sum over this rank's experts; the all2all backend sums over ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from moe import guarded_buffers
from moe.activations import ACTIVATIONS
from moe.batches import from_batches, in_blocks, to_batches, with_adapters
from moe.errors import MoEError
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    from torch import Tensor

    from moe.activations.base import Activation
    from moe.adapters import Adapters
    from moe.formats.format import Format
    from moe.quant.base import QuantMethod
    from moe.spec import LayerSpec, Numerics
    from moe.types import Activations, Batches, Dispatched, ExpertWeights, Routing


class ExpertsBase(ABC):
    """Hold what every backend knows of its rank. `numerics`: as declared by the member's row.

    A class with a constructor of its own must call this one.
    """

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
        # [E] float32, the routing method's bias, for a backend that routes by itself; set later.
        self.router_bias: Tensor | None = None
        # This rank's share, for a backend whose needs say `adapters`; set later, by use_adapters.
        self.adapters: Adapters | None = None

    @abstractmethod
    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep this rank's shard, converted to the backend's own order and memory layout.

        weights: w13 in [gate; up] order; e experts of this rank, n of its intermediate columns.
        """

    @property
    def expert_tensors(self) -> dict[str, Tensor]:
        """Return all that `apply` reads of each expert, by name, for load balancing to move.

        The first dimension is the local expert. Each piece of memory is listed once, and written in
        place. A backend that has no such tensors leaves `eplb` out of its needs. Raises MoEError.
        """
        raise MoEError(
            f"{type(self).__name__} does not list its tensors by expert: define expert_tensors, or "
            "leave `eplb` out of its needs"
        )

    def use_adapters(self, adapters: Adapters | None) -> None:
        """Keep this rank's low-rank adapters, of unpadded sizes; None: the layer has none."""
        self.adapters = adapters

    def activate(self, product: Tensor) -> Tensor:
        """Return the layer's activation [R, n] in float32.

        product: [R, 2n], [gate; up] along 2n, or [R, n] if the activation is not gated.
        """
        if not self.gated:
            return self.activation(product.float(), None)
        gate, up = product.float().chunk(2, dim=1)
        return self.activation(gate, up)

    def zeros_if_idle(self, x: Activations) -> Tensor | None:
        """Return zeros [T, K] if there are no tokens or no local experts, and None otherwise.

        For `apply` of a backend whose kernels take no empty call.
        """
        shape = (x.codes.shape[0], self.layer_spec.hidden)
        if shape[0] > 0 and self.num_local > 0:
            return None
        return guarded_buffers.empty(shape, dtype=self.dtype, device=x.codes.device).zero_()

    @abstractmethod
    def run(self, dispatched: Dispatched) -> Tensor:
        """Return the sums [G, K] over this rank's experts for what an all2all backend prepared.

        dispatched.routing: local ids; of a monolithic backend `Routing.of_logits`.
        """


class Experts(ExpertsBase):
    """Compute experts that are given contiguous tokens with their routing."""

    def run(self, dispatched: Dispatched) -> Tensor:
        """Call `apply` for what an all2all backend prepared, with ids converted to local ones."""
        return self.apply(dispatched.x, dispatched.routing)

    @abstractmethod
    def apply(self, x: Activations, routing: Routing) -> Tensor:
        """Return [T, K] in the model dtype: the sum over this rank's experts of weight * expert(x).

        x: [T, K] activations, quantized by `quant.quantize_input` (T may be 0).
        routing.topk_ids: [T, k] int32 *local* ids, -1 = not on this rank, or padding. The output of
        a token whose ids are all -1 must be zeros, since other ranks' outputs are added to it.
        routing.adapters: [T] int32, of a layer with low-rank adapters.
        """


class BatchedExperts(ExpertsBase):
    """Compute experts that are given a block of rows for each expert, and the number of rows."""

    def run(self, dispatched: Dispatched) -> Tensor:
        """Sort standard rows into batches, call `apply`, and sum its weighted rows by token.

        Of rows that come in blocks, return each one's output. Raises MoEError if an expert gets
        more rows than `capacity` allows.
        """
        x, routing = dispatched.x, dispatched.routing
        if dispatched.block_counts is not None:
            rows = len(routing.topk_ids)
            batches = in_blocks(x, routing.topk_ids, dispatched.block_counts, self.capacity)
            y = self.apply(with_adapters(batches, routing))
            room = rows // max(self.num_local, 1)
            return y[:, :room].reshape(rows, y.shape[2])
        batches = to_batches(x, routing.topk_ids, self.num_local, self.capacity(len(x.codes)))
        return from_batches(self.apply(with_adapters(batches, routing)), batches, routing)

    def capacity(self, tokens: int) -> int:
        """Return C, the rows that each expert has room for; by default, for all tokens."""
        return tokens

    @abstractmethod
    def apply(self, batches: Batches) -> Tensor:
        """Return [e, C, K] in the model dtype, each row's output of its expert, not weighted.

        Rows at or beyond an expert's count are undefined, may hold NaN, and are not read again.
        """


class MonolithicExperts(ExpertsBase):
    """Compute experts that route by themselves, from router logits."""

    def run(self, dispatched: Dispatched) -> Tensor:
        """Call `apply` with the logits, which travelled in the place of router weights."""
        return self.apply(dispatched.x, dispatched.routing.topk_weights)

    @abstractmethod
    def apply(self, x: Activations, logits: Tensor) -> Tensor:
        """Return [T, K] in the model dtype: the sum over this rank's experts of weight * expert(x).

        x: as for `Experts`. logits: [T, E] of all experts of the layer. How to route by them is
        `layer_spec.routing_method`, whose bias is `router_bias`: no part of it may be fixed here.
        Padding rows are zeros with logits of zero; their output is not read again.
        """


def check_set_up(experts: ExpertsBase) -> None:
    """Raise MoEError if a backend's constructor did not call the one of its base class."""
    attributes = ("layer_spec", "rank", "numerics", "quant", "dtype", "activation", "num_local")
    missing = [name for name in attributes if not hasattr(experts, name)]
    if missing:
        name = type(experts).__name__
        raise MoEError(
            f"{name} has no attribute {', '.join(missing)}: its constructor must call "
            "super().__init__(layer_spec, rank, numerics, quant)"
        )


def contiguous_weights(weights: ExpertWeights, activations: Format) -> ExpertWeights:
    """Return the weights with contiguous matrices, as kernels read them.

    activations: their format. Raises MoEError if it is static and there is no `a2_scale`.
    """
    if activations.static and weights.a2_scale is None:
        raise MoEError(
            f"{activations.name} activations need a calibrated a2_scale, and it is None: pass it "
            "in ExpertWeights"
        )
    return weights.replace(w13=weights.w13.contiguous(), w2=weights.w2.contiguous())
