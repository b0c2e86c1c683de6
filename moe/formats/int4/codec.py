"""Encode four-bit integers by rounding to nearest, ties to even."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from moe.formats.codec import Codec
from moe.formats.nibbles import pack, unpack

if TYPE_CHECKING:
    from torch import Tensor


class UInt4(Codec):
    """Use bytes of two codes from 0 to 15, the even column's in the low half. NaN becomes 0."""

    dtype: ClassVar[torch.dtype] = torch.uint8
    bias: ClassVar[int] = 0  # a code minus this is the multiple of the scale

    def encode(self, x: Tensor) -> Tensor:
        """Return [..., C / 2] codes of x [..., C]."""
        known = x.nan_to_num(nan=0.0)
        return pack(known.round().clamp(-self.bias, 15 - self.bias) + self.bias)

    def decode(self, codes: Tensor) -> Tensor:
        return unpack(codes).float() - self.bias


class Int4(UInt4):
    """Store -8 to 7 as 0 to 15, as GPTQ's and compressed-tensors' checkpoints do."""

    bias: ClassVar[int] = 8
