"""Compute the shared experts of the reference: one dense MLP, never quantized, and its error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.numerics import FLOAT32_LOSS, Numerics
from moe.reference.error_propagation import first_product, intermediate, rounding_variance
from moe.reference.parallel_error import along_itself
from moe.reference.sum_noise import gathered

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.activation import TrueActivation
    from moe.spec import LayerSpec

# Of the shared experts in `moe.shared`: each step is rounded to the layer's dtype.
SHARED = Numerics.stated(gemm1="model", activation="model", accumulation=FLOAT32_LOSS)


def shared_output(
    x: Tensor,
    weights: tuple[Tensor, Tensor],
    numerics: Numerics,
    layer_spec: LayerSpec,
    activation: TrueActivation,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output of the shared experts and its error.

    x: [T, K]. weights: w13 [2S, K] and w2 [K, S]. Returns [T, K], the variance [T], and the error
    along the output [3, T], see `Answer.along`.
    """
    w13, w2 = weights
    model = layer_spec.dtype
    h = intermediate(first_product(x, w13, numerics), numerics, model, activation)
    y = h.value @ w2.T
    shards = layer_spec.layout.tp_size
    power = w2.square().sum(dim=0)
    length = y.square().sum(dim=1)
    noise = (h.variance + h.jumps) @ power + gathered(numerics, h.value.shape[1]) * length
    noise = noise + (1 + shards) * rounding_variance(y, model).sum(dim=1)
    unsharded = h.by_rank([range(h.value.shape[1])])
    return y, noise, along_itself(unsharded, power[None, :, None], length[None], 0.0)
