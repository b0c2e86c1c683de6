"""Mistakes that only some values show: a group of zeros, values beyond a range, equal logits."""

from __future__ import annotations

import torch
from mistake import around, mistake

from moe.kernels import quantize
from moe.quant.fp8_tensor import Fp8TensorStatic
from moe.types import Activations

NAN_CODE = 0x7F  # of e4m3
LAST_TIE = 464  # halfway between 448 and the code after it, which is NaN


@mistake("scale of zeros", "kernels-community #681", "says:NaN", quant="fp8_block", n=128, k=256)
def scale_of_a_zero_group_not_guarded(patch):
    """0 / 0."""
    patch.setattr(
        quantize, "_scale_torch", lambda amax, kind: amax.float() * (1 / quantize.MAX[kind])
    )


@mistake("missing clamp", "transformers #42775", "overflow_to_nan", quant="fp8_tensor", n=128)
def inputs_beyond_the_range_cast_without_a_clamp(patch):
    """What the cast makes of them where the hardware does not saturate."""

    def cast(real, self, x, scale):
        found = real(self, x, scale)
        codes = found.codes.view(torch.uint8).clone()
        codes[(x.float() / scale).abs() > LAST_TIE] = NAN_CODE
        return Activations(codes=codes.view(found.codes.dtype), scale=scale)

    around(patch, Fp8TensorStatic, "quantize_input", cast)
    real = quantize.quantize_tensor_torch
    patch.setattr(
        Fp8TensorStatic,
        "quantize_intermediate",
        lambda self, h, scale: Activations(codes=real(h, scale, "fp8"), scale=scale),
    )
