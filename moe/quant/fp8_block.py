"""fp8 e4m3 with 128x128 weight blocks and 1x128 activation groups, as DeepSeek-V3 stores them."""

from __future__ import annotations

from typing import ClassVar

from moe.quant.scaled import ScaledCodes


class Fp8Block(ScaledCodes):
    """Compute all scales from the values; activation scales per token and 128 columns."""

    weights: ClassVar[str] = "fp8_block"
    activations: ClassVar[str] = "fp8_group"
