"""Convert float32 to bf16, fp16, e4m3, e4m3fnuz, e2m1 or integers. No other module does.

Values are rounded to the target's grid by integer or magic-number arithmetic before the type
changes. The casts themselves differ: Triton's interpreter rounds e4m3 ties away from zero and
loses carries (31.37 becomes 16), truncates bf16 and turns NaN into numbers; torch 2.11 turns an
overflow into NaN, torch 2.13 saturates. float32 arithmetic gives the same bits everywhere.

The rules, for kernels and twins: round to nearest, ties to even. bf16 and fp16 overflow to Inf.
e4m3 saturates at 448, e4m3fnuz at 240 and int8 at 127, for Inf as well. NaN stays NaN (0x7f in
e4m3, 0x80 in e4m3fnuz); int8 has none and gives 0, so that only the scale carries the NaN. The sign
of zero is preserved, except in e4m3fnuz, which has one zero. e2m1 saturates at 6
and, like int4, has no NaN.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from moe.formats.fp8 import E4M3_MAX, E4M3FNUZ_MAX
from moe.kernels.launch import INTERPRETED

INT8_MAX = 127.0
# Kind of one-byte codes, the compile-time argument KIND of kernels -> the largest code.
MAX = {"fp8": E4M3_MAX, "fp8_fnuz": E4M3FNUZ_MAX, "int8": INT8_MAX}
CODE_DTYPE = {
    "fp8": torch.float8_e4m3fn,
    "fp8_fnuz": torch.float8_e4m3fnuz,
    "int8": torch.int8,
}
_E4M3_MAX, _E4M3FNUZ_MAX = tl.constexpr(E4M3_MAX), tl.constexpr(E4M3FNUZ_MAX)
_DECODE_NAN = tl.constexpr(INTERPRETED)  # the interpreter reads the e4m3 NaN as 480
_SIGN = tl.constexpr(-0x80000000)


@triton.jit
def magnitude_bits(v):
    """Return the int32 bits of |v|, float32; they sort like magnitudes, with NaN above Inf."""
    return v.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def to_bf16(v):
    """Round float32 to bfloat16."""
    bits = v.to(tl.int32, bitcast=True)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    high_bits = tl.where(magnitude_bits(v) > 0x7F800000, 0x7FC00000, rounded)
    return ((high_bits >> 16) & 0xFFFF).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def to_model_dtype(v, dtype: tl.constexpr):
    """Round float32 to bfloat16, float16 or float32."""
    if dtype == tl.bfloat16:
        return to_bf16(v)
    else:
        return v.to(dtype)


@triton.jit
def round_to_e4m3(v):
    """Round float32 to the e4m3 grid, as float32; NaN stays NaN."""
    return _with_sign_of(_rounded_size(v, _E4M3_MAX, 121), v)  # below 2^-6 a step is 2^-9


@triton.jit
def round_to_e4m3fnuz(v):
    """Round float32 to the e4m3fnuz grid, as float32; NaN stays NaN, and no zero is negative."""
    size = _rounded_size(v, _E4M3FNUZ_MAX, 120)  # below 2^-7 a step is 2^-10
    return tl.where(size == 0.0, 0.0, _with_sign_of(size, v))


@triton.jit
def _rounded_size(v, LARGEST: tl.constexpr, SMALLEST: tl.constexpr):
    """Round |v| to a grid with 3 bits of mantissa. SMALLEST: biased exponent of normal values."""
    top = tl.abs(v)
    size = tl.where(top > LARGEST, LARGEST, top)  # a comparison with NaN is false, so NaN stays
    # A step of the grid is 2^(exponent-3), and that of SMALLEST below it. Adding a number whose own
    # last bit is worth one step rounds to that step; subtracting it again is exact.
    exponent = tl.maximum(magnitude_bits(size) >> 23, SMALLEST)
    magic = (tl.minimum(exponent, 135) + 20) << 23
    rounder = magic.to(tl.float32, bitcast=True)
    return (size + rounder) - rounder


@triton.jit
def _with_sign_of(size, v):
    sign = v.to(tl.int32, bitcast=True) & _SIGN
    return (size.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)


@triton.jit
def e4m3_codes(v):
    """Convert float32 to uint8 codes of float8_e4m3fn."""
    rounded = round_to_e4m3(v)
    code = _code_of(tl.abs(rounded), 120, 512.0)  # biases 127 and 7; a step of 2^-9
    sign = (v.to(tl.int32, bitcast=True) >> 24) & 0x80
    return tl.where(rounded != rounded, 0x7F, code | sign).to(tl.uint8)


@triton.jit
def e4m3fnuz_codes(v):
    """Convert float32 to uint8 codes of float8_e4m3fnuz."""
    rounded = round_to_e4m3fnuz(v)
    code = _code_of(tl.abs(rounded), 119, 1024.0)  # biases 127 and 8; a step of 2^-10
    sign = (rounded.to(tl.int32, bitcast=True) >> 24) & 0x80
    return tl.where(rounded != rounded, 0x80, code | sign).to(tl.uint8)


@triton.jit
def _code_of(rounded, BIAS: tl.constexpr, STEPS: tl.constexpr):
    """Return the code of a size on the grid. BIAS: 127 less the grid's. STEPS: subnormal in 1."""
    size = tl.where(rounded != rounded, 0.0, rounded)
    normal = (size.to(tl.int32, bitcast=True) >> 20) - (BIAS << 3)  # three bits of mantissa remain
    return tl.where(size < 8.0 / STEPS, (size * STEPS).to(tl.int32), normal)


@triton.jit
def int8_codes(v):
    """Round float32 to int8 in -127..127."""
    known = tl.where(v != v, 0.0, v)
    low = tl.where(known < -127.0, -127.0, known)
    clamped = tl.where(low > 127.0, 127.0, low)
    rounded = (clamped + 12582912.0) - 12582912.0  # 1.5 * 2^23: its last bit is worth 1
    return rounded.to(tl.int32).to(tl.int8)


@triton.jit
def e2m1_codes(v):
    """Convert float32 to int32 codes 0..15 of fp4 e2m1; NaN, which it lacks, becomes 0."""
    size = tl.abs(v)  # at a tie the even code wins; comparisons with NaN are false
    code = (size > 0.25).to(tl.int32) + (size >= 0.75).to(tl.int32) + (size > 1.25).to(tl.int32)
    code += (size >= 1.75).to(tl.int32) + (size > 2.5).to(tl.int32) + (size >= 3.5).to(tl.int32)
    code += (size > 5.0).to(tl.int32)
    return code | ((v.to(tl.int32, bitcast=True) >> 28) & 8)


@triton.jit
def integer_codes(v, low, high):
    """Round float32 to int32 in low..high, both of less than 2^21; NaN becomes 0."""
    known = tl.where(v != v, 0.0, v)
    least = tl.where(known < low, low, known)
    clamped = tl.where(least > high, high, least)
    return ((clamped + 12582912.0) - 12582912.0).to(tl.int32)  # as in int8_codes


@triton.jit
def codes_of(v, KIND: tl.constexpr):
    """Convert float32 to int8 codes, or to uint8 codes of an fp8. KIND: a key of MAX."""
    if KIND == "int8":
        return int8_codes(v)
    elif KIND == "fp8_fnuz":
        return e4m3fnuz_codes(v)
    else:
        return e4m3_codes(v)


@triton.jit
def scale_of(amax_bits, KIND: tl.constexpr):
    """Return the scale for the int32 bits of an amax; as integers NaN is largest, so it is kept."""
    amax = amax_bits.to(tl.float32, bitcast=True)
    if KIND == "int8":
        scale = amax * (1.0 / 127.0)
    elif KIND == "fp8_fnuz":
        scale = amax * (1.0 / _E4M3FNUZ_MAX)
    else:
        scale = amax * (1.0 / _E4M3_MAX)
    return tl.where(scale == 0.0, 1.0, scale)


@triton.jit
def values_of(codes):
    """Convert any element type to float32, with the NaNs of fp8.

    The interpreter reads that of e4m3 as 480, and that of e4m3fnuz as -0.
    """
    v = codes.to(tl.float32)
    if _DECODE_NAN and codes.dtype == tl.float8e4nv:
        v = tl.where(tl.abs(v) > 448.0, float("nan"), v)
    if _DECODE_NAN and codes.dtype == tl.float8e4b8:
        v = tl.where(codes.to(tl.uint8, bitcast=True) == 0x80, float("nan"), v)
    return v


def round_to_e4m3_torch(v: torch.Tensor) -> torch.Tensor:
    """Round float32 of any shape to the e4m3 grid, as float32; NaN stays NaN."""
    return v.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).float()


def e4m3_codes_torch(v: torch.Tensor) -> torch.Tensor:
    """Convert float32 of any shape to uint8 codes of float8_e4m3fn."""
    codes = v.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).view(torch.uint8)
    return torch.where(v.isnan(), 0x7F, codes)


def round_to_e4m3fnuz_torch(v: torch.Tensor) -> torch.Tensor:
    """Round float32 of any shape to the e4m3fnuz grid, as float32; NaN stays NaN."""
    return v.clamp(-E4M3FNUZ_MAX, E4M3FNUZ_MAX).to(torch.float8_e4m3fnuz).float()


def e4m3fnuz_codes_torch(v: torch.Tensor) -> torch.Tensor:
    """Convert float32 of any shape to uint8 codes of float8_e4m3fnuz."""
    codes = v.clamp(-E4M3FNUZ_MAX, E4M3FNUZ_MAX).to(torch.float8_e4m3fnuz).view(torch.uint8)
    return torch.where(v.isnan(), 0x80, codes)


def int8_codes_torch(v: torch.Tensor) -> torch.Tensor:
    """Round float32 of any shape to int8 in -127..127."""
    return v.nan_to_num(nan=0.0).clamp(-INT8_MAX, INT8_MAX).round().to(torch.int8)


def codes_torch(v: torch.Tensor, kind: str) -> torch.Tensor:
    """Convert float32 of any shape to codes of CODE_DTYPE[kind]. kind: a key of MAX."""
    codes_of_kind = {
        "fp8": e4m3_codes_torch,
        "fp8_fnuz": e4m3fnuz_codes_torch,
        "int8": int8_codes_torch,
    }
    return codes_of_kind[kind](v).view(CODE_DTYPE[kind])


def scale_torch(amax: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the float32 scale of values up to amax; 1 where it would be 0, NaN for NaN."""
    reciprocal = torch.tensor(1.0 / MAX[kind], dtype=torch.float32, device=amax.device)
    scale = amax * reciprocal
    return torch.where(scale == 0, 1.0, scale)
