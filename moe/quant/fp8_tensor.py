"""fp8 e4m3 with one scale per expert's matrix; activations have one scale in all or per token."""

from __future__ import annotations

from typing import ClassVar

from moe.quant.scaled import ScaledCodes


class Fp8TensorStatic(ScaledCodes):
    """Use calibrated activation scales, which come with the weights; larger values saturate."""

    weights: ClassVar[str] = "fp8_tensor"
    activations: ClassVar[str] = "fp8_static"


class Fp8TensorDynamic(ScaledCodes):
    """Compute one activation scale over all rows that the rank has at that point."""

    weights: ClassVar[str] = "fp8_tensor"
    activations: ClassVar[str] = "fp8_dynamic"
    input_scale_is_local: ClassVar[bool] = False


class Fp8TensorToken(ScaledCodes):
    """Compute one activation scale per token."""

    weights: ClassVar[str] = "fp8_tensor"
    activations: ClassVar[str] = "fp8_token"
