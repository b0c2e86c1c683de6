"""Put scales on the grid of e8m0: powers of two, as bytes with the exponent plus 127.

`floor` is OCP's rule, the power of two at or below amax, divided by that of the largest code; `up`
is the power of two at or above `amax / top`. 255 is NaN, and 0 the subnormal 2**-127.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format


@triton.jit
def power_of_two(code):
    """Return float32 2^(code - 127) of int32 e8m0 codes; 255 is NaN."""
    bits = tl.where(code == 0, 0x00400000, code << 23)
    return tl.where(code == 255, 0x7FC00000, bits).to(tl.float32, bitcast=True)


@triton.jit
def exponent_code(amax, SCALE: tl.constexpr, TOP: tl.constexpr, EXPONENT: tl.constexpr):
    """Return the int32 e8m0 code of the scale, rounded down (`floor`) or up."""
    if SCALE == "floor":
        bits = amax.to(tl.int32, bitcast=True)
        code = tl.maximum((bits >> 23) - EXPONENT, 0)
    else:
        bits = tl.div_rn(amax, tl.zeros_like(amax) + TOP).to(tl.int32, bitcast=True)
        up = (bits >> 23) + ((bits & 0x7FFFFF) != 0).to(tl.int32)
        code = tl.minimum(tl.where(bits <= 0x00400000, 0, up), 254)
    return tl.where(bits > 0x7F800000, 255, code)


def exponent_code_torch(amax: Tensor, fmt: Format) -> Tensor:
    """Return the uint8 e8m0 codes of scales."""
    if fmt.scale_rounding == "floor":
        code = (amax.view(torch.int32) >> 23) - (int(torch.frexp(torch.tensor(fmt.top))[1]) - 1)
    else:
        bits = divided_torch(amax, fmt.top).view(torch.int32)
        code = (bits >> 23) + ((bits & 0x7FFFFF) != 0)
        code = torch.where(bits <= 0x0040_0000, 0, code)
    return torch.where(amax.isnan(), 255, code.clamp(0, 254)).to(torch.uint8)


def divided_torch(x: Tensor, divisor: float) -> Tensor:
    """Return x / divisor, rounded once: torch multiplies by a number's reciprocal on a GPU."""
    return x / torch.tensor(divisor, dtype=x.dtype, device=x.device)
