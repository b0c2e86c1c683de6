"""Encode nothing: the codes are the values, in the layer's dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moe.formats.codec import Codec

if TYPE_CHECKING:
    from torch import Tensor


class ModelDtype(Codec):
    """Return values unchanged, in the layer's dtype and unscaled."""

    dtype: ClassVar[None] = None

    def encode(self, x: Tensor) -> Tensor:
        return x
