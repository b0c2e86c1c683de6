"""int8 with one weight scale per output channel and one activation scale per token."""

from __future__ import annotations

from typing import ClassVar

from moe.quant.scaled import ScaledCodes


class Int8Channel(ScaledCodes):
    """Compute all scales from the values."""

    weights: ClassVar[str] = "int8_channel"
    activations: ClassVar[str] = "int8_token"
