"""Encode int8 by rounding to nearest, ties to even."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from moe.formats.codec import Codec

if TYPE_CHECKING:
    from torch import Tensor


class Int8(Codec):
    """Use codes of dtype torch.int8, from -127 to 127."""

    dtype: ClassVar[torch.dtype] = torch.int8

    def encode(self, x: Tensor) -> Tensor:
        return x.clamp(-127.0, 127.0).round().to(self.dtype)


class FullInt8(Codec):
    """Use codes of dtype torch.int8, from -128 to 127. NaN becomes 0."""

    dtype: ClassVar[torch.dtype] = torch.int8

    def encode(self, x: Tensor) -> Tensor:
        return x.nan_to_num(nan=0.0).round().clamp(-128.0, 127.0).to(self.dtype)


class UInt8(Codec):
    """Use codes of dtype torch.uint8, from 0 to 255. NaN becomes 0."""

    dtype: ClassVar[torch.dtype] = torch.uint8

    def encode(self, x: Tensor) -> Tensor:
        return x.nan_to_num(nan=0.0).round().clamp(0.0, 255.0).to(self.dtype)
