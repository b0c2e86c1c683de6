"""fp8 e4m3 with one weight scale per output channel; activations have one in all or per token."""

from __future__ import annotations

from typing import ClassVar

from moe.quant.scaled import ScaledCodes


class Fp8Channel(ScaledCodes):
    """Compute one activation scale per token, as llm-compressor's FP8_DYNAMIC does."""

    weights: ClassVar[str] = "fp8_channel"
    activations: ClassVar[str] = "fp8_token"


class Fp8ChannelStatic(ScaledCodes):
    """Use calibrated activation scales, which come with the weights; larger values saturate."""

    weights: ClassVar[str] = "fp8_channel"
    activations: ClassVar[str] = "fp8_static"


class Fp8ChannelDynamic(ScaledCodes):
    """Compute one activation scale over all rows that the rank has at that point."""

    weights: ClassVar[str] = "fp8_channel"
    activations: ClassVar[str] = "fp8_dynamic"
    input_scale_is_local: ClassVar[bool] = False
