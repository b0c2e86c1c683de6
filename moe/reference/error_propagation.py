"""Propagate rounding errors through the stages of the layer, together with the values.

A correct member differs from the reference by the noise of its sums, and by values that this noise
moves across a rounding tie. `Noisy` tracks both, stage by stage, so that the tolerance of the
output follows from the values of the case (docs/bounds.md).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from moe.numerics import EITHER
from moe.reference import formats
from moe.reference.sum_noise import gathered, rounds_nothing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moe.activations.base import Propagated
    from moe.numerics import Numerics
    from moe.reference.activation import TrueActivation
    from moe.reference.row_matrices import RowMatrices

REACH = 5.0  # noise reaches ties at a distance of this many standard deviations
FLOAT32_NOISE = 2.0**-21  # relative noise of a few float32 operations and an exponential


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """A value and the error that a correct member may have, all elementwise.

    variance: of small, nearly normal noise. jumps: expected square of rare whole steps, where
    noise moved the value across a rounding tie. doubt: the largest such step, 0 if no tie is
    within reach. shift: the part of the error that values under one scale share, or None.
    """

    value: Tensor
    variance: Tensor
    jumps: Tensor
    doubt: Tensor
    shift: Tensor | None = None

    def columns(self, part: slice) -> Noisy:
        """Return the columns of `part`, such as those of a rank's shard."""
        pieces = (t[:, part] for t in (self.value, self.variance, self.jumps, self.doubt))
        value, variance, jumps, doubt = pieces
        return Noisy(value=value, variance=variance, jumps=jumps, doubt=doubt)

    def rows(self, numbers: Tensor) -> Noisy:
        """Return some rows [R, C] of [T, C]. numbers: [R] int64."""
        pieces = (self.value, self.variance, self.jumps, self.doubt)
        value, variance, jumps, doubt = (t[numbers] for t in pieces)
        return Noisy(value=value, variance=variance, jumps=jumps, doubt=doubt)

    def __getitem__(self, rank: int) -> Noisy:
        """Return a rank's values [R, c] of [w, R, c]."""
        pieces = (self.value, self.variance, self.jumps, self.doubt)
        value, variance, jumps, doubt = (t[rank] for t in pieces)
        return Noisy(value=value, variance=variance, jumps=jumps, doubt=doubt)

    def by_rank(self, columns: Sequence[range]) -> Noisy:
        """Split [R, N] into [w, R, c], see `by_rank`; the padding has no error."""
        pieces = (self.value, self.variance, self.jumps, self.doubt)
        value, variance, jumps, doubt = (by_rank(t, columns) for t in pieces)
        return Noisy(value=value, variance=variance, jumps=jumps, doubt=doubt)

    def times(self, weight: Tensor) -> Noisy:
        """Return each row [R, N] times its weight [R], in float32."""
        factor = weight[:, None]
        value = self.value * factor
        return Noisy(
            value=value,
            variance=self.variance * factor.square() + (value * FLOAT32_NOISE).square(),
            jumps=self.jumps * factor.square(),
            doubt=self.doubt * factor.abs(),
        )

    def product(self, other: Noisy) -> Noisy:
        """Return the elementwise product with another value, in float32."""
        a, b = self.value.abs(), other.value.abs()
        value = self.value * other.value
        noise = (value * FLOAT32_NOISE).square()
        return Noisy(
            value=value,
            variance=b.square() * self.variance + a.square() * other.variance + noise,
            jumps=b.square() * self.jumps + a.square() * other.jumps,
            doubt=b * self.doubt + a * other.doubt,
        )

    def settled(self, value: Tensor, step: Tensor, tie: Tensor) -> Noisy:
        """Return the value and its error after rounding.

        value: the rounded value. step: distance of neighbours on the grid. tie: distance of the
        unrounded value from the nearest tie. Rounding removes small noise unless it reaches the
        tie; then the values differ by whole steps. Half of the earlier jumps, those towards the
        tie, remain jumps.
        """
        sigma = self.variance.sqrt()
        over = 0.5 * torch.erfc(tie / sigma.clamp(min=1e-30) / 2**0.5) * step.square()
        over = torch.where(sigma == 0, 0.0, over)  # at a tie, too: all round it to even
        reach = REACH * sigma + self.doubt
        ties = ((reach - tie) / step.clamp(min=1e-38)).floor() + 1  # number within reach
        jump_size = torch.maximum(ties, torch.ones_like(ties)) * step
        moved = 0.5 * self.jumps / self.doubt.square().clamp(min=1e-38) * jump_size.square()
        jumps = over + torch.where(tie < self.doubt, moved, 0.0)
        doubt = torch.where(tie < reach, jump_size, 0.0)
        return Noisy(value=value, variance=torch.zeros_like(value), jumps=jumps, doubt=doubt)


def by_rank(x: Tensor, columns: Sequence[range]) -> Tensor:
    """Split [A, N] into each rank's columns [w, A, c], shorter pieces padded with zeros."""
    width = max(len(part) for part in columns)
    if all(len(part) == width for part in columns):
        contiguous = x[:, columns[0].start : columns[-1].stop]
        return contiguous.reshape(len(x), len(columns), width).transpose(0, 1)
    pieces = (x[:, part.start : part.stop] for part in columns)
    return torch.stack([pad(piece, (0, width - piece.shape[1])) for piece in pieces])


def rounding_variance(x: Tensor, dtype: str) -> Tensor:
    """Return the variance of one rounding to `dtype`, elementwise: a step squared over twelve."""
    return formats.step_of(x, dtype).square() / 12


def rounded(x: Noisy, place: str | None, model: str) -> Noisy:
    """Round as declared for a place: results differ only if a tie is within reach of the noise.

    model: the layer's dtype. A place that may be rounded or not counts a rounding as noise.
    """
    if place == "f32" or model == "f32":
        return x
    if place == EITHER:
        return dataclasses.replace(x, variance=x.variance + rounding_variance(x.value, model))
    step, value = formats.step_of(x.value, model), formats.on_grid(x.value, model)
    return x.settled(value, step, formats.tie_of(x.value, value, model))


def first_product(
    x: Tensor, w13: RowMatrices, numerics: Numerics, bias: Tensor | None = None
) -> Noisy:
    """Return rows of x [R, K] times their matrix of w13, each [2N, K], with the noise of the sums.

    It is unrounded; the noise is relative to the root of the sum of squares of the terms; see also
    `rounds_nothing`. bias: [R, 2N] or [1, 2N], one more term.
    """
    gate_up = w13.product(x)
    if bias is not None:
        gate_up = gate_up + bias
    zeros = torch.zeros_like(gate_up)
    variance = zeros if numerics.accumulation == 0 else _sum_variance(x, w13, numerics, bias)
    return Noisy(value=gate_up, variance=variance, jumps=zeros, doubt=zeros)


def _sum_variance(x: Tensor, w13: RowMatrices, numerics: Numerics, bias: Tensor | None) -> Tensor:
    """Return the variance [R, 2N] of the sums of `first_product`."""
    lengths = x.square().sum(dim=1, keepdim=True) * w13.squares()
    if bias is not None:
        lengths = lengths + bias.square()
    variance = gathered(numerics, x.shape[1]) * lengths / x.shape[1]
    if bias is None:
        variance = torch.where(rounds_nothing(x, w13, numerics), 0.0, variance)
    return variance


def intermediate(
    product: Noisy,
    numerics: Numerics,
    model: str,
    activation: TrueActivation,
    weight: Tensor | None = None,
) -> Noisy:
    """Return the activation [R, N] of the first product, [R, 2N] = [gate, up] or [R, N].

    It is rounded as `numerics` declares. weight: [R] router weights that multiply it, or None.
    """
    gate_up = rounded(product, numerics.gemm1, model)
    h = rounded(_activated(gate_up, numerics, model, activation), numerics.activation, model)
    return h if weight is None else rounded(h.times(weight), numerics.weighted, model)


def _activated(product: Noisy, numerics: Numerics, model: str, activation: TrueActivation) -> Noisy:
    """Apply the activation [R, 2n] or [R, n] -> [R, n]: errors by slopes, plus float32 noise."""
    gate, up = _halves(product, activation)
    f = _through(gate, activation.of_gate(gate.value, _reach(gate)))
    if up is not None:
        factor = _through(up, activation.of_up(up.value, _reach(up)))
        if numerics.activated_gate == "f32" or model == "f32":
            h = _scaled(f, factor)
        else:
            h = rounded(f, numerics.activated_gate, model).product(factor)
    else:
        h = f
    if not numerics.activation_error:
        return h
    error = (h.value * numerics.activation_error).square() / 3
    return dataclasses.replace(h, variance=h.variance + error)


def _halves(product: Noisy, activation: TrueActivation) -> tuple[Noisy, Noisy | None]:
    """Return gate and up, or all columns and None if the activation is not gated."""
    if not activation.gated:
        return product, None
    half = product.value.shape[1] // 2
    return product.columns(slice(0, half)), product.columns(slice(half, None))


def _reach(x: Noisy) -> Tensor:
    """Return the largest error of x, elementwise."""
    return REACH * x.variance.sqrt() + x.doubt


def _through(x: Noisy, function: Propagated) -> Noisy:
    """Return a function of x with the error of x, times the slope, and with its own noise."""
    slope = function.slope
    return Noisy(
        value=function.value,
        variance=slope.square() * x.variance + function.noise.square(),
        jumps=slope.square() * x.jumps,
        doubt=slope * x.doubt,
    )


def _scaled(f: Noisy, factor: Noisy) -> Noisy:
    """Return f(gate) * up, whose float32 product is part of the noise of f."""
    a, b = f.value.abs(), factor.value.abs()
    return Noisy(
        value=f.value * factor.value,
        variance=b.square() * f.variance + a.square() * factor.variance,
        jumps=b.square() * f.jumps + a.square() * factor.jumps,
        doubt=b * f.doubt + a * factor.doubt,
    )
