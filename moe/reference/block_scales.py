"""Put scales on the grids of e8m0 and e4m3, by float32 arithmetic.

The e8m0 grid has the powers of two from 2**-127 to 2**127. The e4m3 grid of scales has positive
numbers from 2**-9 to 448: the scale of a block is never zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.formats.grids import divided, float_step

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format

SCALE_MAX = 448.0  # the largest e4m3 scale
SCALE_MIN = 2.0**-9  # the smallest


def power_of_two(amax: Tensor, fmt: Format) -> Tensor:
    """Return the e8m0 scale of values up to amax, float32, rounded as the format says.

    NaN stays NaN.
    """
    size = amax.to(torch.float32)
    if fmt.scale_rounding == "up":
        size = divided(size, fmt.top)
        fraction, exponent = torch.frexp(size)  # fraction in [1/2, 1)
        exponent = exponent - (fraction == 0.5).int()
    else:
        largest = torch.frexp(torch.tensor(fmt.top)).exponent
        exponent = torch.frexp(size).exponent - largest.to(amax.device)
    exponent = torch.where(size == 0, -127, exponent).clamp(-127, 127)
    scale = torch.ldexp(torch.ones_like(size), exponent)
    return torch.where(size.isnan(), size, scale)


def global_scale(amax: Tensor, fmt: Format) -> Tensor:
    """Return G = 448 * top / amax, by which the scales of blocks are divided; 1 for zeros."""
    size = amax.to(torch.float32)
    return torch.where(size == 0, 1.0, SCALE_MAX * fmt.top / size)


def two_level(amax: Tensor, fmt: Format, total: Tensor) -> Tensor:
    """Return the scale of each block, an e4m3 number divided by the global scale `total`.

    amax: of the blocks. total: broadcastable to it.
    """
    wanted = divided(amax.to(torch.float32), fmt.top) * total.to(torch.float32)
    clamped = wanted.clamp(SCALE_MIN, SCALE_MAX)
    step = float_step(clamped, bits=4, smallest=-9)
    return (clamped / step).round() * step / total.to(torch.float32)
