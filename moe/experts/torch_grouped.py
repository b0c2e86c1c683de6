"""Compute experts by torch's grouped products: rows sorted by expert, one call per product.

A bias is one more column of the weights, and a column of ones in the rows, so that it is part of
the sum before its only rounding.

They need rows of a multiple of 16 bytes, and leave the rows beyond the last group unwritten: rows
without an expert on this rank are sorted there and are not read again. bf16 runs anywhere; fp8 with
a scale for each token and each output channel on Hopper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe import intermediates
from moe.errors import MoEError
from moe.experts.sorted_rows import SortedExperts, taken

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights


_COLUMNS = 8  # a bias and zeros: grouped_mm needs rows of a multiple of 16 bytes


class TorchGroupedExperts(SortedExperts):
    """Compute all local experts with two grouped products, in bf16, without a device sync."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep transposed views; of weights with biases, joined to copies."""
        # [e, out, in] -> [e, in, out] as a view: grouped_mm accepts transposed strides.
        self.w13 = _with_bias(weights.w13, weights.b13).transpose(1, 2)
        self.w2 = _with_bias(weights.w2, weights.b2).transpose(1, 2)

    @property
    def expert_tensors(self) -> dict[str, Tensor]:
        """Return both matrices, whose last rows are biases if there are any."""
        return {"w13": self.w13, "w2": self.w2}

    def first_product(self, x: Activations, token: Tensor, groups: Tensor) -> Tensor:
        return _grouped_mm(x.codes[token], self.w13, groups)

    def second_product(self, h: Tensor, order: Tensor, groups: Tensor) -> Tensor:
        del order
        return _grouped_mm(h, self.w2, groups)


class TorchScaledGroupedExperts(TorchGroupedExperts):
    """Multiply fp8 codes: one scale for each row of activations and each row of weights."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep transposed views and scales [e, out]. Raises MoEError for other scales."""
        super().prepare_weights(weights)
        self.w13_scale = _row_scales("w13_scale", weights.w13_scale, weights.w13)
        self.w2_scale = _row_scales("w2_scale", weights.w2_scale, weights.w2)

    @property
    def expert_tensors(self) -> dict[str, Tensor]:
        """Return both matrices and their scales."""
        scales = {"w13_scale": self.w13_scale, "w2_scale": self.w2_scale}
        return super().expert_tensors | scales

    def first_product(self, x: Activations, token: Tensor, groups: Tensor) -> Tensor:
        rows = taken(x, token)
        return scaled_grouped_mm(rows, self.w13, self.w13_scale, groups, self.dtype)

    def second_product(self, h: Tensor, order: Tensor, groups: Tensor) -> Tensor:
        rows = self.quant.quantize_intermediate(h, None)
        intermediates.keep("second", rows.codes, rows=order)
        intermediates.keep("second_scale", rows.scale, rows=order)
        return scaled_grouped_mm(rows, self.w2, self.w2_scale, groups, self.dtype)


def _grouped_mm(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Return the [R, out] products. x: [R, in] sorted by expert. w: [e, in, out]. ends: [e]."""
    x = _with_ones(x, w)
    if hasattr(torch.nn.functional, "grouped_mm"):
        return torch.nn.functional.grouped_mm(x, w, offs=ends)
    return torch._grouped_mm(x, w, offs=ends)


def _with_bias(w: Tensor, bias: Tensor | None) -> Tensor:
    """Return w [e, O, I], with the bias [e, O] and zeros as _COLUMNS more columns."""
    if bias is None:
        return w.contiguous()
    more = w.new_zeros((*w.shape[:2], _COLUMNS))
    more[:, :, 0] = bias
    return torch.cat([w, more], dim=2)


def _with_ones(x: Tensor, w: Tensor) -> Tensor:
    """Return x [R, I], with ones where w [e, I, O] has its bias, if it has one."""
    if x.shape[1] == w.shape[1]:
        return x
    more = x.new_zeros((len(x), _COLUMNS))
    more[:, 0] = 1
    return torch.cat([x, more], dim=1)


def scaled_grouped_mm(
    x: Activations, w: Tensor, w_scale: Tensor, ends: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the [R, out] products of fp8 codes, scaled. Only CUDA has such a product.

    x: [R, in] codes with scales [R, 1], sorted by expert. w: [e, in, out] codes. w_scale: [e, out]
    float32. ends: [e]. dtype: of the result.
    """
    assert x.scale is not None, "the codes have no scales"
    # Sums leave the tensor cores' short accumulator every 128 elements, unless it is to be fast.
    return torch._scaled_grouped_mm(
        *(x.codes, w, x.scale.reshape(-1), w_scale, ends),
        out_dtype=dtype,
        use_fast_accum=False,
    )


def _row_scales(name: str, scale: Tensor | None, w: Tensor) -> Tensor:
    """Return scales [e, out] float32 of w [e, out, in]. Raises MoEError for any others."""
    shape = None if scale is None else list(scale.shape)
    if scale is None or scale.numel() != w.shape[0] * w.shape[1]:
        raise MoEError(
            f"{name} is {shape}; scaled_grouped_mm takes one scale for each row of the weights, "
            f"{list(w.shape[:2])}: use quant fp8_channel"
        )
    return scale.float().reshape(w.shape[:2]).contiguous()
