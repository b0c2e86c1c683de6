"""Add up the output of the reference: routed experts of all ranks, then what every token gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.reference.output_noise import sum_roundings, weight_error
from moe.reference.result import Answer

if TYPE_CHECKING:
    from torch import Tensor

    from moe.numerics import Numerics
    from moe.reference.result import Sums
    from moe.reference.shared_experts import SharedPart
    from moe.spec import LayerSpec


def answer_of(
    sums: Sums, x: Tensor, shared: SharedPart | None, numerics: Numerics, layer_spec: LayerSpec
) -> Answer:
    """Return the sum over the ranks and the shared experts, with the roundings of these sums.

    x: [T, K], the layer's input.
    """
    out, variance, flips, along = sums.partial.sum(dim=0), sums.variance, sums.flips, sums.along
    if shared is not None:
        out, variance = out + shared.out, variance + shared.variance
        flips, along = flips + shared.flips, along + shared.along
    variance = variance + sum_roundings(sums.partial, out, numerics, layer_spec, shared is not None)
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
