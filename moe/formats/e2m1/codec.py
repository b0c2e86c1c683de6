"""Encode fp4 e2m1 by comparing with the ties between neighbouring codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from moe.formats.codec import Codec
from moe.formats.nibbles import pack, unpack

if TYPE_CHECKING:
    from torch import Tensor

_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# A magnitude beyond n of these has the code n. At a tie the even code wins: the codes 1, 3, 5 and 7
# begin above their tie, the codes 2, 4 and 6 at it.
_ABOVE, _AT = (0.25, 1.25, 2.5, 5.0), (0.75, 1.75, 3.5)


class E2M1(Codec):
    """Use bytes of two codes, the even column's in the low half; bit 3 of a code is the sign."""

    dtype: ClassVar[torch.dtype] = torch.uint8

    def encode(self, x: Tensor) -> Tensor:
        """Return [..., C / 2] codes of x [..., C]. NaN, which e2m1 lacks, becomes 0."""
        size = x.abs()
        code = torch.zeros(x.shape, dtype=torch.uint8, device=x.device)
        for tie in _ABOVE:
            code += size > tie
        for tie in _AT:
            code += size >= tie
        return pack(code | (x.signbit().to(torch.uint8) << 3))

    def decode(self, codes: Tensor) -> Tensor:
        nibbles = unpack(codes).long()
        values = torch.tensor(_VALUES, device=codes.device)[nibbles & 7]
        return torch.where(nibbles > 7, -values, values)
