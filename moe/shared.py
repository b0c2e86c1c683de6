"""Compute shared experts: one dense MLP applied to every token, and where it has one, its gate.

It is tensor-parallel over the TP ranks. Under sequence parallelism TP ranks have different tokens,
so each rank holds the full MLP. Its results are in the layer's dtype, also where it is quantized:
codes are multiplied as float32 values. `FusedShared` makes the shared experts further experts of
the experts backend instead, which computes them with the routed ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear, pad

from moe.activations import ACTIVATIONS
from moe.layout import chunk
from moe.quant.base import dequantize_activations, dequantize_weight
from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.activations.base import Activation
    from moe.formats.quant_tensor import QuantTensor
    from moe.quant.base import QuantMethod
    from moe.spec import LayerSpec
    from moe.types import ExpertWeights


@dataclass(frozen=True, kw_only=True)
class SharedExperts:
    """Compute the shared experts on one rank, which holds S of their columns."""

    # Of one expert: w13 [1, 2S, K], [gate; up], or [1, S, K] if the activation is not gated; and w2
    # [1, K, S].
    weights: ExpertWeights
    quant: QuantMethod
    gate: Tensor | None = None  # [1, K] model dtype; None: no gate
    activation: str = "silu"  # a row of `moe.activations`
    _activate: Activation = field(init=False)  # loaded once: calls that are traced import nothing
    _gated: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_activate", ACTIVATIONS.load(self.activation)())
        object.__setattr__(self, "_gated", ACTIVATIONS.row(self.activation).gated)

    def seen(self, x: Tensor, is_padding: Tensor | None) -> Tensor:
        """Return tokens [T, K] with zeros in padding rows [T], if one scale would span all rows."""
        if is_padding is None or self.quant.input_scale_is_local:
            return x
        return x.masked_fill(is_padding[:, None], 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return this rank's partial sum, [T, K] in the model dtype. x: [T, K]."""
        product = self._product(x, self.weights.gate_up).float()
        if self._gated:
            gate, up = product.chunk(2, dim=-1)
            h = self._activate(gate, up)
        else:
            h = self._activate(product, None)
        y = self._product(h.to(x.dtype), self.weights.down)
        if self.gate is None:
            return y
        return (gate_of(x, self.gate) * y.float()).to(x.dtype)

    def _product(self, x: Tensor, w: QuantTensor) -> Tensor:
        """Return x @ w.T, [T, O], rounded once to the dtype of x [T, I], which is quantized."""
        matrix = w.expert(0)
        if matrix.scale is None and matrix.codes.dtype == x.dtype:
            return plain_product(x, matrix.codes)
        values = dequantize_activations(self.quant.quantize_input(x, None))
        return linear(values, dequantize_weight(matrix)).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class FusedShared:
    """Send every token to the shared experts, the last ids that the ranks hold."""

    first: int  # id of the first one: the number of routed experts
    count: int
    gate: Tensor | None = None  # [1, K] model dtype; None: their weight is one

    def add_to(self, x: Tensor, routing: Routing) -> Routing:
        """Return the routing with `count` more slots. x: [T, K]."""
        ids, weights = routing.topk_ids, routing.topk_weights
        shared = torch.arange(self.first, self.first + self.count, device=ids.device)
        weight = weights.new_ones(()) if self.gate is None else gate_of(x, self.gate)
        shape = len(ids), self.count
        return Routing(
            topk_ids=torch.cat([ids, shared.to(ids.dtype).expand(shape)], dim=1),
            topk_weights=torch.cat([weights, weight.expand(shape)], dim=1),
        )


def gate_of(x: Tensor, gate: Tensor) -> Tensor:
    """Return the sigmoid of x @ gate.T, [T, 1] float32. x: [T, K], gate: [1, K]."""
    return linear(x.float(), gate.float()).sigmoid()


def plain_product(x: Tensor, w: Tensor) -> Tensor:
    """Return x @ w.T, [T, O], in their dtype, rounded once. x: [T, I], w: [O, I].

    Without `out_dtype` cuBLAS can split a sum and round the partial sums to 16 bits. On a CPU the
    product of bf16 rows whose length is no multiple of 32 reads past each: a NaN there, in the next
    row or beside it, would be the result.
    """
    if torch.version.cuda is None or not x.is_cuda or x.dtype == torch.float32 or len(x) == 0:
        rest = -x.shape[1] % 32 if x.dtype == torch.bfloat16 and not x.is_cuda else 0
        return linear(pad(x, (0, rest)), pad(w, (0, rest))) if rest else linear(x, w)
    return torch.mm(x, w.T, out_dtype=torch.float32).to(x.dtype)


def shard_shared(
    layer_spec: LayerSpec,
    rank: int,
    w13: Tensor,
    w2: Tensor,
    *,
    quant: QuantMethod,
    gate: Tensor | None = None,
) -> SharedExperts:
    """Return the shared experts of `rank`: quantized, and then sharded.

    w13: [2W, K], or [W, K] if the activation is not gated; w2: [K, W] model dtype, W =
    layer_spec.shared_columns. gate: [1, K], or None.
    """
    weights = quant.quantize_weights(w13[None], w2[None])
    layout, width = layer_spec.layout, w2.shape[1]
    if layout.tp_size > 1 and not layout.sequence_parallel:
        columns = chunk(width, layout.tp_size, layout.tp_rank(rank))
        weights = quant.shard(weights, columns, width)
    return SharedExperts(weights=weights, quant=quant, gate=gate, activation=layer_spec.activation)
