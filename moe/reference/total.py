"""Add up the output of the reference: routed experts of all ranks, then what every token gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.reference.error_propagation import FLOAT32_NOISE, rounding_variance
from moe.reference.output_noise import sum_roundings, weight_error
from moe.reference.result import Answer

if TYPE_CHECKING:
    from torch import Tensor

    from moe.numerics import Numerics
    from moe.reference.result import Sums
    from moe.reference.shared_experts import SharedPart
    from moe.spec import LayerSpec


def answer_of(
    sums: Sums,
    x: Tensor,
    shared: SharedPart | None,
    numerics: Numerics,
    layer_spec: LayerSpec,
    passed: Tensor | None = None,
) -> Answer:
    """Return the sum over the ranks and the shared experts, with the roundings of these sums.

    x: [T, K], the routed experts' input. passed: [T, K] what zero experts add last, or None.
    """
    out, variance, flips, along = sums.partial.sum(dim=0), sums.variance, sums.flips, sums.along
    if shared is not None:
        out, variance = out + shared.out, variance + shared.variance
        flips, along = flips + shared.flips, along + shared.along
    variance = variance + sum_roundings(sums.partial, out, numerics, layer_spec, shared is not None)
    if passed is not None:
        out, noise = out + passed, (passed * FLOAT32_NOISE).square()
        variance = variance + (noise + rounding_variance(out, layer_spec.dtype)).sum(dim=1)
        along = along + _along_passed(out, passed, noise)
    unsure, along_unsure = weight_error(sums.unsure, out)
    return Answer(
        out=out,
        variance=variance + unsure,
        flips=flips,
        along=torch.cat([along, along_unsure[None]]),
        amax1=x.abs().amax() if x.numel() else x.new_zeros(()),
        amax2=sums.amax2,
        parts=sums.parts,
        shared=None if shared is None else shared.out,
    )


def _along_passed(out: Tensor, passed: Tensor, noise: Tensor) -> Tensor:
    """Return the error [3, T] along out, see `Answer.along`, of what zero experts add.

    passed, noise: [T, K], the values and the variance of their float32 products. The sum of a
    token's weights is rounded, too, and all of its row has that error.
    """
    variance = (noise * out.square()).sum(dim=1)
    common = (FLOAT32_NOISE * passed * out).sum(dim=1).abs()
    return torch.stack([variance, torch.zeros_like(variance), common])


def passed_through(x: Tensor, topk_ids: Tensor, weights: Tensor, first: int) -> Tensor:
    """Return [T, K], each token x [T, K] times its weights of zero experts, the ids from `first`.

    topk_ids, weights: [T, k].
    """
    total = x.new_zeros(len(x), 1)
    for slot in range(topk_ids.shape[1]):
        is_zero = topk_ids[:, slot] >= first
        total[is_zero, 0] += weights[is_zero, slot].to(x.dtype)
    return total * x
