"""Load codes of weights and activations, and turn them into values, without a copy in memory.

fp4 and fp8 codes times a power of two, and fp4 codes times an e4m3 scale, are exact in bf16, so mx*
and nvfp4 values are decoded whole, with the scales of their groups. Integers are decoded without
their scale, which is applied to the sum over a group. Codes of fp4 are decoded by arithmetic on
their bits, since few chips convert them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from moe.errors import MoEError
from moe.kernels import rounding
from moe.kernels.exponents import power_of_two

if TYPE_CHECKING:
    from moe.formats.format import Format

# How the kernel reads an operand: grid of the format -> kind. `value`: an element is a number.
_KINDS = {
    "model": "value",
    "e4m3": "value",
    "int8": "value",
    "uint8": "unsigned",
    "e2m1": "e2m1",
    "int4": "int4",
    "uint4": "unsigned4",
}


def is_decoded(fmt: Format) -> bool:
    """Return whether an operand of this format is decoded here: its scales belong to groups."""
    return fmt.group is not None and (fmt.packing > 1 or fmt.group < 128 or fmt.bottom is not None)


def code_kind(fmt: Format) -> str:
    """Return how the kernel reads the codes. Raises MoEError for a grid that it does not know."""
    if fmt.grid not in _KINDS:
        raise MoEError(f"no kernel decodes the grid {fmt.grid!r}, only {', '.join(_KINDS)}")
    return _KINDS[fmt.grid]


def scale_kind(fmt: Format) -> str:
    """Return how the kernel scales an operand.

    none, tensor, token; e8m0 or e4m3, multiplied with the codes; `sums`, applied to sums of groups.
    Raises MoEError for blocks of other shapes.
    """
    if fmt.block is None:
        return "none"
    if fmt.scale_dtype != "f32":
        return fmt.scale_dtype
    if fmt.group is not None:
        return "sums"
    kind = "tensor" if fmt.has_one_scale else "token" if fmt.block == (1, None) else ""
    if not kind:
        raise MoEError(
            f"no kernel decodes weights beside {fmt.name}, whose scales are those of blocks of "
            f"{fmt.block}"
        )
    return kind


@triton.jit
def e2m1_values(code):
    """Return float32 values of int32 codes 0 to 15."""
    size = code & 7
    normal = ((size >> 1) + 126) << 23 | (size & 1) << 22  # biases 1 and 127; one bit of mantissa
    bits = tl.where(size < 2, size * 0x3F000000, normal)  # 0 or one half
    return (bits | (code & 8) << 28).to(tl.float32, bitcast=True)


@triton.jit
def decoded(raw, KIND: tl.constexpr):
    """Return float32 values of loaded elements, a code each, or of bytes with two codes.

    The two of a byte lie side by side, so that each byte is loaded once.
    """
    if KIND == "value":
        return rounding.values_of(raw)
    elif KIND == "unsigned":
        return raw.to(tl.float32)
    else:
        byte = raw.to(tl.int32)
        return tl.interleave(_code_values(byte & 15, KIND), _code_values(byte >> 4, KIND))


@triton.jit
def _code_values(code, KIND: tl.constexpr):
    """Return float32 values of int32 codes 0 to 15."""
    if KIND == "e2m1":
        return e2m1_values(code)
    elif KIND == "int4":
        return (code - 8).to(tl.float32)
    else:
        return code.to(tl.float32)


@triton.jit
def scale_values(raw, KIND: tl.constexpr):
    """Return float32 values of e8m0 scales, or of e4m3 ones, which are loaded as bytes."""
    if KIND == "e8m0":
        return power_of_two(raw.to(tl.int32))
    else:
        return _e4m3_values(raw.to(tl.int32))


@triton.jit
def _e4m3_values(code):
    """Return float32 values of positive e4m3 codes; 0x7f is NaN."""
    size = code & 0x7F
    normal = ((size << 20) + (120 << 23)).to(tl.float32, bitcast=True)  # biases 7 and 127
    small = size.to(tl.float32) * 0.001953125  # 2^-9
    return tl.where(size == 0x7F, float("nan"), tl.where(size < 8, small, normal))
