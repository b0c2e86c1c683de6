"""Quantize with a scale per group of a row's columns: the base class of weight-only, mx* and nvfp4.

A member names its weight and its activation format, as those of `moe.quant.scaled` do. Weights are
quantized along the input of each product, so shards and experts do not change their codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.formats import FORMATS
from moe.kernels import quantize_groups
from moe.kernels.launch import runs_kernels
from moe.kernels.quantize_groups import global_scale
from moe.kernels.quantize_weights import moe_quantize_weights, moe_quantize_weights_torch
from moe.quant.scaled import ScaledCodes, given_scale
from moe.types import Activations

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.formats.quant_tensor import QuantTensor


class GroupCodes(ScaledCodes):
    """Quantize weights by groups, and activations by groups, in one of the other ways, or not.

    A member whose activations have a dynamic global scale sets `input_scale_is_local = False`.
    """

    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        """Return quantized rows. Raises MoEError without the global scale of a static format."""
        fmt = FORMATS[self.activations]
        if fmt.grid == "model":
            return Activations(codes=x)
        if fmt.scale_dtype == "f32":
            return super().quantize_input(x, a1_scale)
        total = _total(x, a1_scale, fmt) if fmt.global_scale else None
        rows = quantize_rows(x, fmt, total)
        return Activations(
            codes=rows.codes, scale=rows.scale, global_scale=rows.global_scale, format=fmt
        )


def _total(x: Tensor, calibrated: Tensor | None, fmt: Format) -> Tensor:
    """Return the global scale [] float32 of rows x [T, K]: the calibrated one, or that of x."""
    if fmt.static:
        return given_scale(calibrated, fmt).reshape(())
    return global_scale(x.abs().amax() if x.numel() else x.new_zeros(()), fmt)


def quantize_rows(x: Tensor, fmt: Format, total: Tensor | None = None) -> QuantTensor:
    """Return x [T, K] in a format with groups. Uses the kernel on a GPU, otherwise its twin."""
    run = (
        quantize_groups.quantize_groups
        if runs_kernels(x.device)
        else quantize_groups.quantize_groups_torch
    )
    return run(x, fmt, total)


def quantize_experts(w: Tensor, fmt: Format) -> QuantTensor:
    """Return w [e, O, I] in a format with groups; each expert has its own global scale."""
    do = moe_quantize_weights if runs_kernels(w.device) else moe_quantize_weights_torch
    return do(w, fmt)
