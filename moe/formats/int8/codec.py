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
