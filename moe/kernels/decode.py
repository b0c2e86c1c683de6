"""Turn codes of weights and activations into values.

fp4 and fp8 codes times a power of two, and fp4 codes times an e4m3 scale, are exact in bf16, so mx*
and nvfp4 values are decoded whole, with the scales of their groups. Integers are decoded without
their scale, which is applied to the sum over a group. Codes of four bits are decoded by arithmetic
on their bits: few chips convert them. Weights are decoded as they are loaded, by the kernel of a
product; activations, whose rows are read once for each tile of columns, by `decoded_rows` before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels import rounding
from moe.kernels.exponents import power_of_two
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.tiles import is_decoded, program_size

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.formats.quant_tensor import QuantTensor

_INTERPRETED = tl.constexpr(INTERPRETED)
E2M1_FACTOR, E2M1_FACTOR_FP16 = tl.constexpr(2.0**126), tl.constexpr(2.0**14)
E4M3_LEFT = tl.constexpr(2.0**19)

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


def check_decoded(tensor: QuantTensor) -> None:
    """Raise MoEError for a format, scales or sizes that the kernels do not read."""
    fmt = tensor.format
    tensor.check()
    code_kind(fmt)
    scale_kind(fmt)
    if is_decoded(fmt) and fmt.group is not None and tensor.shape[-1] % fmt.group:
        raise MoEError(
            f"{tensor.shape[-1]} columns of {fmt.name} codes end inside a group of {fmt.group}; "
            "pad them with zeros to whole groups"
        )


def check_rows(x: QuantTensor) -> None:
    """Raise MoEError for activations that the kernels do not read, or in a format of weights."""
    check_decoded(x)
    if scale_kind(x.format) == "sums":
        raise MoEError(
            f"{x.format.name} has scales of groups that a product with weights in groups does not "
            "read; quantize activations to another format"
        )


def decoded_rows(x: QuantTensor) -> Tensor:
    """Return the values of activations in bf16, without the scale of a row or of all rows.

    x: [*, K], as `check_rows` takes it. Values of the layer's dtype are returned as they are.
    """
    fmt = x.format
    if fmt.grid == "model":
        return x.codes.contiguous()
    if not is_decoded(fmt):
        return x.codes.contiguous().to(torch.bfloat16)
    values = guarded_buffers.empty(x.shape, dtype=torch.bfloat16, device=x.codes.device)
    assert fmt.group is not None
    assert x.scale is not None
    groups = values.numel() // fmt.group
    size = program_size(4096, 1 << 17, is_interpreted=INTERPRETED)
    tile = max(1, min(triton.next_power_of_2(max(groups, 1)), size // fmt.group))
    launch(
        *(_decode_groups, (triton.cdiv(groups, tile),), x.codes.device, x.codes.contiguous()),
        *(x.scale.contiguous().view(torch.uint8), values, groups),
        KIND=code_kind(fmt),
        SCALE=scale_kind(fmt),
        GROUP=fmt.group,
        PACKING=fmt.packing,
        GROUPS=tile,
    )
    return values


@triton.jit(do_not_specialize=("groups",))
def _decode_groups(
    code_ptr, scale_ptr, value_ptr, groups, KIND: tl.constexpr, SCALE: tl.constexpr,
    GROUP: tl.constexpr, PACKING: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Write the values of GROUPS groups: codes times their scale."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    used = group < groups
    byte = tl.arange(0, GROUP // PACKING)
    at = group[:, None] * (GROUP // PACKING) + byte[None, :]
    raw = tl.load(code_ptr + at, mask=used[:, None], other=0.0 if KIND == "value" else 0)
    scale = scale_values(tl.load(scale_ptr + group, mask=used, other=0), SCALE)
    value = rounding.to_bf16(decoded(raw, KIND) * scale[:, None])
    column = tl.arange(0, GROUP)
    tl.store(value_ptr + group[:, None] * GROUP + column[None, :], value, mask=used[:, None])


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


@triton.jit
def number_of(bits, HALF: tl.constexpr):
    """Return numbers of int32 bits: of fp16, or of bf16, which the interpreter gets as float32."""
    if _INTERPRETED:
        return (bits << 16).to(tl.float32, bitcast=True)
    elif HALF:
        return (bits & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True)
    else:
        return (bits & 0xFFFF).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def values_of_words(
    word, zero, PART: tl.constexpr, KIND: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Return [ROWS, WIDTH] values of a part of arranged int32 words [ROWS, WIDTH / 2].

    Codes of e2m1 become numbers with the same bits: 2^-126 (fp16: 2^-14) times the value, so that
    a product with a power of two, `E2M1_FACTOR`, is left to do. Integers become the low bits of 128
    (1024 in fp16), which is subtracted again together with the zero point, [ROWS] int32; of signed
    codes that is 8.
    """
    if KIND == "e2m1":
        bits = _e2m1_pairs(word, PART)
        if HALF:  # exponents lie three bits higher, with another bias
            bits = (bits & -0x7FFF8000) | ((bits & 0x01C001C0) << 3)
        return _columns_of(bits, HALF, ROWS, WIDTH)
    else:
        ONES: tl.constexpr = 0x64006400 if HALF else 0x43004300
        pairs = _columns_of(((word >> (4 * PART)) & 0x000F000F) | ONES, HALF, ROWS, WIDTH)
        if KIND == "int4":  # a tensor would be loaded in another layout than the words
            return pairs - (1032.0 if HALF else 136.0)
        else:
            return pairs - number_of((ONES & 0xFFFF) + zero, HALF)[:, None]


@triton.jit
def _e2m1_pairs(word, PART: tl.constexpr):
    """Return int32 with the bits of two columns' codes where bf16 has sign, exponent, mantissa."""
    if PART < 3:
        return (word << (3 * PART)) & -0x7E3F7E40  # 0x81C081C0
    else:
        sign = (word << 1) & -0x7FFF8000  # 0x80008000
        return sign | ((word >> 5) & 0x01000100) | ((word >> 4) & 0x00C000C0)


@triton.jit
def _columns_of(pairs, HALF: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Return [ROWS, WIDTH], the numbers in the low and the high half of words side by side."""
    if _INTERPRETED:
        both = tl.join(pairs << 16, pairs & -0x10000).to(tl.float32, bitcast=True)
    else:
        both = tl.join(number_of(pairs, HALF), number_of(pairs >> 16, HALF))
    return tl.reshape(both, (ROWS, WIDTH))


@triton.jit
def scales_of_word(word, PART: tl.constexpr, SCALE: tl.constexpr):
    """Return the scales of a part [ROWS], in bf16 (interpreted: float32).

    word: [ROWS] int32, a byte for each part. e4m3 scales are returned times 2^107, so that a
    product with e2m1's bits is 2^-19 times the value, `E4M3_LEFT`: 2^126 would be beyond bf16.
    """
    code = (word >> (8 * PART)) & 0xFF
    if SCALE == "e8m0":
        bits = tl.where(code == 0, 0x0040, tl.where(code == 255, 0x7FC0, code << 7))
        return number_of(bits, False)
    else:
        return number_of((code << 4) + 0x7000, False)  # the exponent 31 becomes 255: NaN
