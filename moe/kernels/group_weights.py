"""Quantize weights with a scale per group of a row's columns: the `quantizer` of such formats.

`moe.kernels.quantize_weights` calls it for the formats whose rows name it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.byte_views import joined
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
    totals = _totals(w, fmt)
    if len(w) < 2:
        return quantize_groups_torch(w, fmt, totals)
    parts = [  # float32 copies of all experts would take 16 bytes an element
        quantize_groups_torch(w[e : e + 1], fmt, None if totals is None else totals[e : e + 1])
        for e in range(len(w))
    ]
    names = [
        n
        for n in ("codes", "scale", "global_scale", "zero_point")
        if getattr(parts[0], n) is not None
    ]
    return parts[0].replace(**{n: joined([getattr(part, n) for part in parts]) for n in names})


def _totals(w: Tensor, fmt: Format) -> Tensor | None:
    """Return the global scale of each expert [e] float32, or None if the format has none."""
    if not fmt.global_scale:
        return None
    return global_scale(w.abs().amax(dim=(1, 2)) if w.numel() else w.new_zeros(len(w)), fmt)
