"""int8 with 128x128 weight blocks and 1x128 activation groups."""

from __future__ import annotations

from typing import ClassVar

from moe.quant.scaled import ScaledCodes


class Int8Block(ScaledCodes):
    """Compute all scales from the values; activation scales per token and 128 columns."""

    weights: ClassVar[str] = "int8_block"
    activations: ClassVar[str] = "int8_group"
