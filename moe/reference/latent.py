"""Compute the projections of a latent layer, with the errors that they bring to the experts.

A value that the projection rounds to the layer's dtype may lie near a tie: a correct member then
has the neighbour, and its code another step. So the experts' input has an error of its own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.numerics import FLOAT32_LOSS, Numerics
from moe.reference.error_propagation import (
    Noisy,
    first_product,
    rounded,
    rounding_variance,
)
from moe.reference.row_matrices import RowMatrices
from moe.reference.scale_error import Scale, dynamic_scale, largest_of, quantize_noisy
from moe.reference.sum_noise import gathered

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.spec import LayerSpec

# Of the projections in `moe.latent`: each product is summed in float32 and rounded once.
LATENT = Numerics.stated(gemm1="model", accumulation=FLOAT32_LOSS)


@dataclass(frozen=True, kw_only=True)
class LatentTruth:
    """Compute a layer's projections. down: [L, K], up: [K, L], in the layer's dtype."""

    down: Tensor
    up: Tensor

    def enter(self, x: Tensor, model: str) -> Noisy:
        """Return the routed experts' input [T, L] of x [T, K], in its dtype, with its error."""
        product = first_product(x, RowMatrices.one(self.down.to(x.dtype)), LATENT)
        return rounded(product, LATENT.gemm1, model)

    def leave(self, y: Tensor) -> Tensor:
        """Return y [..., L] projected back, [..., K], unrounded."""
        return y @ self.up.to(y.dtype).T

    def folded(self, w2: Tensor) -> Tensor:
        """Return the product [K, N] of the way back and an expert's second matrix w2 [L, N].

        The way back is linear, so it may as well come before all sums.
        """
        return self.up.to(w2.dtype) @ w2

    def rounding(self, partial: Tensor, layer_spec: LayerSpec) -> Tensor:
        """Return the variance [T] of rounding what each TP rank projected back.

        partial: [world, T, K] of all ranks, whose tokens are summed over the gather group first.
        """
        layout = layer_spec.layout
        shape = (layout.tp_size, *partial.shape[1:])
        by_rank = partial.view(len(partial) // layout.tp_size, *shape).sum(dim=0)
        if layout.sequence_parallel:
            by_rank = by_rank.sum(dim=0, keepdim=True)
        noise = gathered(LATENT, self.up.shape[1]) * by_rank.square()
        variance: Tensor = rounding_variance(by_rank, layer_spec.dtype) + noise
        return variance.sum(dim=(0, 2))


def quantized_error(x: Noisy, scale: Tensor | None, fmt: Format, numerics: Numerics) -> Noisy:
    """Return x [T, L] quantized for the first product, with the error of its codes.

    scale: [] or [1, 1], what all rows share, or None. The value is not used.
    """
    if fmt.grid == "model":
        return x
    shared = None
    if scale is not None:
        zero = scale.new_zeros(())
        shared = Scale(scale=scale, doubt=zero, chance=zero)
        if not fmt.static:
            largest = largest_of(x)
            shared = dataclasses.replace(largest, scale=scale)
    if shared is None or not fmt.has_one_scale:
        shared = dynamic_scale(x, fmt, numerics, shared)
    return quantize_noisy(x, shared, fmt)


def carried(product: Noisy, error: Noisy, w13: RowMatrices) -> Noisy:
    """Return the first product [R, 2N] with the error of its input [R, L]. w13: each [2N, L]."""
    return dataclasses.replace(
        product,
        variance=product.variance + w13.product(error.variance, of=torch.square),
        jumps=product.jumps + w13.product(error.jumps, of=torch.square),
        doubt=product.doubt + w13.product(error.doubt, of=torch.abs),
    )
