"""fp8 e4m3fnuz, for chips whose matrix units read fp8 so (gfx942), in the usual granularities."""

from __future__ import annotations

from typing import ClassVar

from moe.quant.scaled import ScaledCodes


class Fp8FnuzTensorStatic(ScaledCodes):
    """Use calibrated activation scales, which come with the weights; larger values saturate."""

    weights: ClassVar[str] = "fp8_fnuz_tensor"
    activations: ClassVar[str] = "fp8_fnuz_static"


class Fp8FnuzTensorDynamic(ScaledCodes):
    """Compute one activation scale over all rows that the rank has at that point."""

    weights: ClassVar[str] = "fp8_fnuz_tensor"
    activations: ClassVar[str] = "fp8_fnuz_dynamic"
    input_scale_is_local: ClassVar[bool] = False


class Fp8FnuzChannel(ScaledCodes):
    """Compute one weight scale per output channel, and one activation scale per token."""

    weights: ClassVar[str] = "fp8_fnuz_channel"
    activations: ClassVar[str] = "fp8_fnuz_token"


class Fp8FnuzBlock(ScaledCodes):
    """Compute all scales from the values; activation scales per token and 128 columns."""

    weights: ClassVar[str] = "fp8_fnuz_block"
    activations: ClassVar[str] = "fp8_fnuz_group"
