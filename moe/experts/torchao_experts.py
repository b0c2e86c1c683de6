"""Compute experts by torchao's grouped products of mx formats, as it emulates them anywhere.

They decode both sides to bf16 and call torch's grouped product; on Blackwell torchao has kernels in
their place. What lies between the products is quantized by torchao's own `to_mx`. The rest is the
layer's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe import intermediates
from moe.experts.sorted_rows import SortedExperts, taken
from moe.formats import FORMATS
from moe.types import Activations

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.quant_tensor import QuantTensor
    from moe.types import ExpertWeights

_GROUP = 32  # columns that share a power of two


class TorchaoMX(SortedExperts):
    """Call the emulated products of mxfp8, or, on groups of 32, of fp4 codes."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep the codes and scales as they are."""
        self.weights = weights
        self.format = FORMATS[self.layer_spec.scheme.activations]

    def first_product(self, x: Activations, token: Tensor, groups: Tensor) -> Tensor:
        return self.product(taken(x, token), self.weights.gate_up, groups)

    def second_product(self, h: Tensor, order: Tensor, groups: Tensor) -> Tensor:
        second = self.quantized(h)
        intermediates.keep("second", second.codes, rows=order)
        intermediates.keep("second_scale", second.block_scale, rows=order)
        return self.product(second, self.weights.down, groups)

    def quantized(self, h: Tensor) -> Activations:
        """Return h [R, n] as the second product takes it."""
        from torchao.prototype.mx_formats.config import ScaleCalculationMode
        from torchao.prototype.mx_formats.mx_tensor import to_mx

        if self.format.grid == "e4m3":
            settings = torch.float8_e4m3fn, _GROUP, ScaleCalculationMode.RCEIL
        else:
            settings = torch.float4_e2m1fn_x2, _GROUP, ScaleCalculationMode.FLOOR
        scale, codes = to_mx(h.contiguous(), *settings)
        return Activations(codes=codes, scale=scale.view(torch.uint8), format=self.format)

    def product(self, x: Activations, w: QuantTensor, ends: Tensor) -> Tensor:
        """Return [R, O] in the layer's dtype. x: [R, I] sorted by expert. w: [e, O, I]."""
        from torchao.prototype.moe_training import mxfp8_grouped_mm, nvfp4_grouped_mm

        assert x.scale is not None, "codes of mx formats have scales"
        assert w.scale is not None, "codes of mx formats have scales"
        x_scale, w_scale = (s.view(torch.float8_e8m0fnu) for s in (x.scale, w.scale))
        if self.format.grid == "e4m3":
            multiply = mxfp8_grouped_mm._emulated_mxfp8_scaled_grouped_mm_2d_3d
            operands = w.codes.transpose(1, 2), w_scale.transpose(1, 2)
        else:
            multiply = nvfp4_grouped_mm._emulated_nvfp4_scaled_grouped_mm_2d_3d
            operands = w.codes, w_scale
        out: Tensor = multiply(x.codes, x_scale, *operands, ends, self.dtype, block_size=_GROUP)
        return out
