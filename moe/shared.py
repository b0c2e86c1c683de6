"""Compute shared experts: one dense MLP applied to every token, in the model dtype.

It is tensor-parallel over the TP ranks. Under sequence parallelism TP ranks have different tokens,
so each rank holds the full MLP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from moe.activations import ACTIVATIONS
from moe.layout import chunk

if TYPE_CHECKING:
    from torch import Tensor

    from moe.spec import LayerSpec


@dataclass(frozen=True, kw_only=True)
class SharedExperts:
    """Compute the shared experts on one rank, which holds S of the shared_experts * N columns."""

    w13: Tensor  # [2S, K], [gate; up]; [S, K] if the activation is not gated
    w2: Tensor  # [K, S]
    activation: str = "silu"  # a row of `moe.activations`

    def forward(self, x: Tensor) -> Tensor:
        """Return this rank's partial sum, [T, K] in the model dtype. x: [T, K]."""
        product, activate = _product(x, self.w13).float(), ACTIVATIONS.load(self.activation)()
        if ACTIVATIONS.row(self.activation).gated:
            gate, up = product.chunk(2, dim=-1)
            h = activate(gate, up)
        else:
            h = activate(product, None)
        return _product(h.to(x.dtype), self.w2)


def _product(x: Tensor, w: Tensor) -> Tensor:
    """Return x @ w.T, [T, O], in their dtype, rounded once. x: [T, I], w: [O, I].

    Without `out_dtype` cuBLAS can split a sum and round the partial sums to 16 bits.
    """
    if torch.version.cuda is None or not x.is_cuda or x.dtype == torch.float32 or len(x) == 0:
        return linear(x, w)
    return torch.mm(x, w.T, out_dtype=torch.float32).to(x.dtype)


def shard_shared(layer_spec: LayerSpec, rank: int, w13: Tensor, w2: Tensor) -> SharedExperts:
    """Return the shard of `rank`.

    w13: [2W, K], or [W, K] if the activation is not gated; w2: [K, W]; W = shared_experts *
    intermediate.
    """
    layout = layer_spec.layout
    if layout.sequence_parallel or layout.tp_size == 1:
        return SharedExperts(w13=w13, w2=w2, activation=layer_spec.activation)
    columns = chunk(w2.shape[1], layout.tp_size, layout.tp_rank(rank))
    part = slice(columns.start, columns.stop)
    halves = torch.cat([matrix[part] for matrix in torch.split(w13, w2.shape[1])])
    down = w2[:, part].contiguous()
    return SharedExperts(w13=halves, w2=down, activation=layer_spec.activation)
