"""Quantize weights with a scale per group of a row's columns: the `quantizer` of such formats.

`moe.kernels.quantize_weights` calls it for the formats whose rows name it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.kernels.quantize_groups import global_scale, quantize_groups, quantize_groups_torch

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.formats.quant_tensor import QuantTensor


def quantize_weights(w: Tensor, fmt: Format) -> QuantTensor:
    """Return w [e, O, I] in a format with groups; a global scale is one per expert, [e]."""
    return quantize_groups(w, fmt, _totals(w, fmt))


def quantize_weights_torch(w: Tensor, fmt: Format) -> QuantTensor:
    """Compute the result of `quantize_weights` in torch."""
    return quantize_groups_torch(w, fmt, _totals(w, fmt))


def _totals(w: Tensor, fmt: Format) -> Tensor | None:
    """Return the global scale of each expert [e] float32, or None if the format has none."""
    if not fmt.global_scale:
        return None
    return global_scale(w.abs().amax(dim=(1, 2)) if w.numel() else w.new_zeros(len(w)), fmt)
