"""fp8 e4m3 with one scale per expert's matrix, and one per activation tensor, static or dynamic."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moe.formats import FORMATS
from moe.quant.base import QuantMethod, quantize_pair, quantize_tensor, scale_of
from moe.types import Activations, ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor


class _Fp8Tensor(QuantMethod):
    """Quantize weights with one scale per expert's matrix."""

    def quantize_weights(self, w13: Tensor, w2: Tensor) -> ExpertWeights:
        return quantize_pair(w13, w2, FORMATS["fp8_tensor"])


class Fp8TensorStatic(_Fp8Tensor):
    """Use calibrated activation scales, which come with the weights; larger values saturate."""

    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        if a1_scale is None:
            raise ValueError(
                "fp8_tensor needs calibrated activation scales, and got None: pass a1_scale and "
                "a2_scale"
            )
        codes = quantize_tensor(x, a1_scale, "fp8")
        return Activations(codes=codes, scale=a1_scale, format=FORMATS["fp8_static"])


class Fp8TensorDynamic(_Fp8Tensor):
    """Compute one scale over all rows that the rank has at that point."""

    input_scale_is_local: ClassVar[bool] = False

    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        del a1_scale
        dynamic = FORMATS["fp8_dynamic"]
        scale = scale_of(x.abs().amax() if x.numel() else x.new_zeros(()), dynamic)
        return Activations(codes=quantize_tensor(x, scale, "fp8"), scale=scale, format=dynamic)
