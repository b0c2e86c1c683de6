"""Compute steps of floating-point grids, for the truths of formats. Codecs do not import it."""

from __future__ import annotations

import torch
from torch import Tensor

# Of each dtype: an integer of its width, and the bits of the exponent.
_EXPONENT = {
    torch.float32: (torch.int32, 0x7F80_0000),
    torch.float64: (torch.int64, 0x7FF0_0000_0000_0000),
}


def float_step(x: Tensor, bits: int, smallest: int) -> Tensor:
    """Return the distance between neighbours of the grid at each value, of x's shape.

    x: float32 or float64. bits: of the significand, including the implicit one. smallest: exponent
    of the smallest step, that of subnormal values. Infinite values have the largest step.
    """
    integer, mask = _EXPONENT[x.dtype]
    power = (x.view(integer) & mask).view(x.dtype)  # the power of two at or below |x|
    return (power * 2.0 ** (1 - bits)).clamp_(2.0**smallest, 2.0 ** (128 - bits))


def divided(x: Tensor, divisor: float) -> Tensor:
    """Return x / divisor, rounded once.

    On a GPU torch multiplies by the reciprocal of a Python number, which rounds twice, and scales
    that are off by their last bit move codes that are near a tie.
    """
    return x / torch.tensor(divisor, dtype=x.dtype, device=x.device)
