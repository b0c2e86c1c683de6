"""Compute steps of floating-point grids, for the truths of formats. Codecs do not import it."""

from __future__ import annotations

import torch
from torch import Tensor


def float_step(x: Tensor, bits: int, smallest: int) -> Tensor:
    """Return the distance between neighbours of the grid at each value, of x's shape.

    x: float32. bits: of the significand, including the implicit one. smallest: exponent of the
    smallest step, that of subnormal values.
    """
    _, exponent = torch.frexp(x)
    exponent = torch.where(x == 0, smallest, exponent - bits).clamp(min=smallest)
    return torch.ldexp(torch.ones_like(x), exponent)
