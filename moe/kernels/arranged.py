"""Arrange quantized weights once, so that the kernels that decode them do little else than that.

Columns are taken in steps of four parts, and a part has one scale: 16 or 32 columns. The codes of
a step lie together, those of neighbouring rows side by side, so that a tile is read in one piece.
Codes of four bits: the eight codes of an int32 word are those of two neighbouring columns in each
of the four parts, the first column in its low half. Their bits lie where a shift and a mask make
bf16 numbers of both columns at once:

    integers    part p: bits 4p to 4p + 3
    e2m1        part 0: the sign in bit 15, exponent and mantissa in bits 8 to 6, as in bf16;
                parts 1 and 2: 3 and 6 bits lower; part 3: in bits 14, 13, 11 and 10

Bytes: [e, steps, 4, out, width]. Words: [e, steps, out, width / 2].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from moe.byte_views import joined
from moe.errors import MoEError
from moe.formats.nibbles import unpack
from moe.kernels.decode import check_decoded, code_kind, scale_kind

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.formats.quant_tensor import QuantTensor

PARTS = 4
_WIDEST = 32
_GROUPS = (16, 32, 64, 128)
_ONE = {"e8m0": 127, "e4m3": 80}  # the byte of the scale 1
_E4M3_BIAS = 10  # of the exponents of e4m3 scales in bytes: the smallest, 2^-9, has 1


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """Hold the weights [e, out, inner] of a format with groups, as the kernels read them.

    codes: int32 words or one-byte codes, see the module. width: columns of a part.
    scale: [e, steps, out] int32 with a byte for each part (see `_normal_bytes` for e4m3), or
    [e, steps, 4 / span, out] float32.
    span: parts that share a scale. zero_point: [e, steps, out] int32, a byte for each scale.
    global_scale: as in QuantTensor.
    """

    codes: Tensor
    scale: Tensor
    format: Format
    shape: tuple[int, int, int]
    width: int
    span: int
    zero_point: Tensor | None = None
    global_scale: Tensor | None = None

    def replace(self, **changes: Any) -> Arranged:
        """Return a copy with these fields changed."""
        return replace(self, **changes)


def arranged(w: QuantTensor) -> Arranged:
    """Return the weights [e, out, inner] arranged; columns beyond `inner` have codes of 0.

    Raises MoEError for formats, scales and sizes that the kernels do not read.
    """
    check_decoded(w)
    fmt, group = w.format, w.format.group
    if group not in _GROUPS or w.scale is None:
        known = ", ".join(map(str, _GROUPS))
        raise MoEError(f"no kernel decodes groups of {group} columns ({fmt.name}), only of {known}")
    experts, out, inner = w.shape
    width = min(group, _WIDEST)
    steps, span = -(-inner // (PARTS * width)), group // width
    scales = PARTS // span
    return Arranged(
        codes=_codes(w, steps, width),
        scale=_by_step(w.scale, fmt, (experts, out, steps, scales)),
        zero_point=None if w.zero_point is None else _bytes(w.zero_point, 0, steps, scales),
        global_scale=None if w.global_scale is None else w.global_scale.reshape(-1).expand(experts),
        format=fmt,
        shape=(experts, out, inner),
        width=width,
        span=span,
    )


def _codes(w: QuantTensor, steps: int, width: int) -> Tensor:
    """Return all experts' codes as the kernels read them."""
    if len(w.codes) < 2 or w.codes.is_meta:
        return _codes_of(w, steps, width)
    assert w.scale is not None
    each = zip(w.codes.split(1), w.scale.split(1), strict=True)
    # One expert after the other: while words are made, a code takes several bytes.
    return joined([_codes_of(w.replace(codes=c, scale=s), steps, width) for c, s in each])


def _codes_of(w: QuantTensor, steps: int, width: int) -> Tensor:
    kind = code_kind(w.format)
    codes = _without_empty_groups(w) if w.format.scale_dtype == "e4m3" else w.codes
    codes = unpack(codes) if w.format.packing > 1 else codes.view(torch.uint8)
    experts, out, inner = codes.shape
    padded = torch.nn.functional.pad(codes, (0, steps * PARTS * width - inner))
    if w.format.packing == 1:
        parts = padded.view(experts, out, steps, PARTS, width).permute(0, 2, 3, 1, 4)
        return parts.contiguous().view(w.codes.dtype)
    pairs = padded.view(experts, out, steps, PARTS, width // 2, 2).permute(0, 2, 1, 4, 3, 5)
    place = _place_e2m1 if kind == "e2m1" else _place_integer
    words = torch.zeros(pairs.shape[:-2], dtype=torch.int32, device=codes.device)
    for part in range(PARTS):
        for half in range(2):
            words |= place(pairs[..., part, half].int(), part) << (16 * half)
    return words


def _place_integer(code: Tensor, part: int) -> Tensor:
    return code << (4 * part)


def _place_e2m1(code: Tensor, part: int) -> Tensor:
    if part < PARTS - 1:
        return (code & 8) << (12 - 3 * part) | (code & 7) << (6 - 3 * part)
    return (code & 8) << 11 | (code & 4) << 11 | (code & 3) << 10


def _by_step(scale: Tensor, fmt: Format, sizes: tuple[int, int, int, int]) -> Tensor:
    """Return the scales of each step side by side. sizes: e, out, steps, scales of a step."""
    experts, out, steps, scales = sizes
    kind = scale_kind(fmt)
    groups = _of_rows(scale, experts, out)
    if kind != "sums":
        numbers = groups.view(torch.uint8) if kind == "e8m0" else _normal_bytes(groups)
        return _bytes(numbers, _ONE[kind], steps, scales)
    padded = torch.nn.functional.pad(groups, (0, steps * scales - groups.shape[2]), value=1.0)
    return padded.view(experts, out, steps, scales).permute(0, 2, 3, 1).contiguous()


def _of_rows(numbers: Tensor, experts: int, out: int) -> Tensor:
    """Return numbers of blocks as [e, out, groups]; e is 0 on a rank without experts."""
    groups = numbers.numel() // (experts * out) if numbers.numel() else math.prod(numbers.shape[2:])
    return numbers.reshape(experts, out, groups)


def _normal_bytes(scale: Tensor) -> Tensor:
    """Return uint8 with 5 bits of exponent and 3 of mantissa for positive e4m3 scales; 255: NaN.

    None is subnormal, so that the bits of a bf16 number are a shift and a sum away. 0 has none:
    it becomes the byte 0, and its codes are made zeros.
    """
    value = scale.float()
    bits = value.view(torch.int32)
    byte = ((bits >> 23) - 127 + _E4M3_BIAS) << 3 | ((bits >> 20) & 7)
    known = torch.where(value == 0, 0, torch.where(value.isnan(), 255, byte))
    return known.to(torch.uint8)


def _without_empty_groups(w: QuantTensor) -> Tensor:
    """Return codes with zeros where an e4m3 scale is 0."""
    assert w.scale is not None
    assert w.format.group is not None
    is_empty = _of_rows(w.scale, *w.shape[:2]).float() == 0
    width = w.format.group // w.format.packing
    return w.codes.masked_fill(is_empty.repeat_interleave(width, dim=-1), 0)


def _bytes(numbers: Tensor, padding: int, steps: int, scales: int) -> Tensor:
    """Return [e, steps, out] int32 with a byte for each scale of a step, the first one lowest."""
    experts, out = numbers.shape[:2]
    flat = _of_rows(numbers, experts, out)
    padded = torch.nn.functional.pad(flat, (0, steps * scales - flat.shape[2]), value=padding)
    parts = padded.view(experts, out, steps, scales).permute(0, 2, 1, 3)
    words = torch.zeros(parts.shape[:-1], dtype=torch.int32, device=flat.device)
    for number in range(scales):
        words |= parts[..., number].int() << (8 * number)
    return words
