"""Compute the shared experts of the reference: one dense MLP, its gate, and its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.formats import FORMATS
from moe.layout import chunk
from moe.numerics import FLOAT32_LOSS, Numerics
from moe.reference import formats
from moe.reference.error_propagation import (
    FLOAT32_NOISE,
    Noisy,
    by_rank,
    first_product,
    intermediate,
    rounding_variance,
)
from moe.reference.parallel_error import along_itself
from moe.reference.row_matrices import RowMatrices
from moe.reference.scale_error import dynamic_scale, quantize_noisy
from moe.reference.sum_noise import gathered

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.activation import TrueActivation
    from moe.spec import LayerSpec

# Of the shared experts in `moe.shared`: each step is rounded to the layer's dtype.
SHARED = Numerics.stated(gemm1="model", activation="model", accumulation=FLOAT32_LOSS)


@dataclass(frozen=True, kw_only=True)
class SharedPart:
    """What the shared experts add: out [T, K], variance and flips [T], along [3, T], see `Answer`.

    parts: [s, T, K], of each TP rank.
    """

    out: Tensor
    variance: Tensor
    flips: Tensor
    along: Tensor
    parts: Tensor


@dataclass(frozen=True, kw_only=True)
class SharedTruth:
    """Compute the shared experts of a layer. w13: [2S, K], w2: [K, S], before quantization."""

    w13: Tensor
    w2: Tensor
    gate: Tensor | None  # [1, K]; None: no gate
    numerics: Numerics
    layer_spec: LayerSpec
    activation: TrueActivation

    @property
    def shards(self) -> int:
        """Return how many TP ranks have columns of their own."""
        layout = self.layer_spec.layout
        return 1 if layout.sequence_parallel else layout.tp_size

    @property
    def spans_rows(self) -> bool:
        """Return whether one scale of activations depends on all rows."""
        return FORMATS[self.layer_spec.shared_scheme.activations].spans_rows

    def __call__(self, x: Tensor, shards: int | None = None) -> SharedPart:
        """Return their output for x [T, K], in its dtype. shards: of the columns, if others."""
        h, w2, y = self._products(x, self.shards if shards is None else shards)
        return self._gated(self._sum(h, w2, y), x)

    def stage(self, x: Tensor, tp_rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return a TP rank's part [T, K] of x [T, K], unrounded, and the error of each value.

        The error: its standard deviation, and the largest one from codes that may flip and, before
        a gate, from rounding.
        """
        by_rank = self._products(x, self.shards)
        h, w2, y = by_rank[0][tp_rank], by_rank[1][tp_rank], by_rank[2][tp_rank]
        terms = h.value.shape[1]
        size = h.value.norm(dim=1, keepdim=True) * w2.norm(dim=1)
        noise = (h.variance + h.jumps) @ w2.square().T
        noise = noise + gathered(self.numerics, terms) / terms * size.square()
        sigma, doubt = noise.sqrt(), h.doubt @ w2.abs().T
        if self.gate is None:
            return y, sigma, doubt
        doubt = doubt + formats.step_of(y.abs() * (1 + 2.0**-8), self.layer_spec.dtype) / 2
        factor = gate_factor(x, self.gate)
        return y * factor, (sigma + y.abs() * FLOAT32_NOISE) * factor, doubt * factor

    def column_terms(self, x: Tensor, tp_rank: int, block: int) -> Tensor:
        """Return [T, P, K], what each block of a TP rank's intermediate columns adds to its part.

        x: [T, K]. A scale that spans all rows is that of these rows.
        """
        h, w2, _ = self._products(x, self.shards)
        value, w2_of_rank = h.value[tp_rank], w2[tp_rank]
        terms = [
            value[:, start : start + block] @ w2_of_rank[:, start : start + block].T
            for start in range(0, value.shape[1], block)
        ]
        factor = 1.0 if self.gate is None else gate_factor(x, self.gate)[:, None]
        return torch.stack(terms, dim=1) * factor

    def _products(self, x: Tensor, shards: int) -> tuple[Noisy, Tensor, Tensor]:
        """Return h [s, T, c], w2 [s, K, c] and their products y [s, T, K] of `shards` ranks."""
        w13, w2 = self._weights(x.dtype)
        columns = [chunk(w2.shape[1], shards, tp_rank) for tp_rank in range(shards)]
        h = self._intermediate(x, w13).by_rank(columns)
        fmt = FORMATS[self.layer_spec.shared_scheme.activations]
        if fmt.grid != "model":
            h = quantize_noisy(h, dynamic_scale(h, fmt, self.numerics), fmt)
        w2 = by_rank(w2, columns)
        return h, w2, h.value @ w2.transpose(1, 2)

    def _weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the values of the codes of both matrices."""
        fmt = FORMATS[self.layer_spec.shared_scheme.weights]
        w13, w2 = (formats.weight_values(w.to(dtype), fmt) for w in (self.w13, self.w2))
        return w13, w2

    def _intermediate(self, x: Tensor, w13: Tensor) -> Noisy:
        """Return f(gate) * up [T, S], before any second quantization."""
        fmt = FORMATS[self.layer_spec.shared_scheme.activations]
        if fmt.grid != "model":
            scale = formats.activation_scale(x, fmt, None, self.numerics)
            x = formats.quantized_values(x, scale, fmt)
        product = first_product(x, RowMatrices.one(w13), self.numerics)
        return intermediate(product, self.numerics, self.layer_spec.dtype, self.activation)

    def _sum(self, h: Noisy, w2: Tensor, y: Tensor) -> SharedPart:
        """Return the sum over the ranks of h [s, T, c] @ w2 [s, K, c], each y [s, T, K] rounded."""
        out, power = y.sum(dim=0), w2.square().sum(dim=1)[:, None]
        length = y.square().sum(dim=2)
        noise = ((h.variance + h.jumps) * power).sum(dim=2)
        noise = (noise + gathered(self.numerics, h.value.shape[2]) * length).sum(dim=0)
        roundings = (1 + len(y)) * rounding_variance(out, self.layer_spec.dtype).sum(dim=1)
        flips = torch.zeros_like(noise)
        if FORMATS[self.layer_spec.shared_scheme.activations].grid != "model":
            flips = (h.doubt.square() * power).sum(dim=(0, 2))
        return SharedPart(
            out=out,
            variance=noise + roundings,
            flips=flips,
            along=along_itself(h, power, length, 0.0),
            parts=y,
        )

    def _gated(self, part: SharedPart, x: Tensor) -> SharedPart:
        """Return the part of x [T, K] times the gate, which is rounded once more."""
        if self.gate is None:
            return part
        factor = gate_factor(x, self.gate)
        parts, out, square = part.parts * factor, part.out * factor, factor.square()
        noise = rounding_variance(parts, self.layer_spec.dtype).sum(dim=0)
        noise = noise + (out * FLOAT32_NOISE).square()
        powers = torch.stack([square.square(), square.square(), square])[:, :, 0]
        return SharedPart(
            out=out,
            variance=part.variance * square[:, 0] + noise.sum(dim=1),
            flips=part.flips * square[:, 0],
            along=part.along * powers,
            parts=parts,
        )


def gate_factor(x: Tensor, gate: Tensor) -> Tensor:
    """Return the sigmoid of x [T, K] times gate [1, K], [T, 1]."""
    return 1 / (1 + torch.exp(-(x @ gate.to(x.dtype).T)))
