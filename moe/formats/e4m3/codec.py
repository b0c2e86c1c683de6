"""Encode fp8 e4m3 by torch's cast."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from moe.formats.codec import Codec
from moe.formats.fp8 import E4M3_MAX

if TYPE_CHECKING:
    from torch import Tensor


class E4M3(Codec):
    """Use codes of dtype torch.float8_e4m3fn, from -448 to 448."""

    dtype: ClassVar[torch.dtype] = torch.float8_e4m3fn

    def encode(self, x: Tensor) -> Tensor:
        clamped = x.clamp(
            -E4M3_MAX, E4M3_MAX
        )  # in some torch versions an overflowing cast gives NaN
        return clamped.to(self.dtype)
