"""Encode fp8 e4m3fnuz by torch's cast."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from moe.formats.codec import Codec
from moe.formats.fp8 import E4M3FNUZ_MAX

if TYPE_CHECKING:
    from torch import Tensor


class E4M3FNUZ(Codec):
    """Use codes of dtype torch.float8_e4m3fnuz, from -240 to 240; -0 becomes 0."""

    dtype: ClassVar[torch.dtype] = torch.float8_e4m3fnuz

    def encode(self, x: Tensor) -> Tensor:
        clamped = x.clamp(-E4M3FNUZ_MAX, E4M3FNUZ_MAX)  # an overflowing cast can give NaN
        return clamped.to(self.dtype)
