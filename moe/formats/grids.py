"""What the formats' truths share: plain arithmetic on float32. Codecs never import it."""

from __future__ import annotations

import torch
from torch import Tensor


def float_step(x: Tensor, bits: int, smallest: int) -> Tensor:
    """The distance between neighbours at each value, for a significand of so many bits.

    smallest: the exponent of the smallest step, that of subnormal values.
    """
    _, exponent = torch.frexp(x)
    exponent = torch.where(x == 0, smallest, exponent - bits).clamp(min=smallest)
    return torch.ldexp(torch.ones_like(x), exponent)
