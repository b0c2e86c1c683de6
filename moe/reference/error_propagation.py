"""Propagate rounding errors through the stages of the layer, together with the values.

A correct member differs from the reference by the noise of its sums, and by values that this noise
moves across a rounding tie. `Noisy` tracks both, stage by stage, so that the tolerance of the
output follows from the values of the case (docs/bounds.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from moe.reference import formats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moe.activations.base import ActivationTruth
    from moe.formats.format import Format
    from moe.spec import Numerics

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

    def by_rank(self, columns: Sequence[range]) -> Noisy:
        """Split [R, N] into [w, R, c], see `by_rank`; the padding has no error."""
        pieces = (self.value, self.variance, self.jumps, self.doubt)
        value, variance, jumps, doubt = (by_rank(t, columns) for t in pieces)
        return Noisy(value=value, variance=variance, jumps=jumps, doubt=doubt)

    def settled(self, value: Tensor, step: Tensor, tie: Tensor) -> Noisy:
        """Return the value and its error after rounding.

        value: the rounded value. step: distance of neighbours on the grid. tie: distance of the
        unrounded value from the nearest tie. Rounding removes small noise unless it reaches the
        tie; then the values differ by whole steps. Half of the earlier jumps, those towards the
        tie, remain jumps.
        """
        sigma = self.variance.sqrt()
        over = 0.5 * torch.erfc(tie / sigma.clamp(min=1e-30) / 2**0.5) * step.square()
        reach = REACH * sigma + self.doubt
        ties = ((reach - tie) / step.clamp(min=1e-38)).floor() + 1  # number within reach
        jump_size = torch.maximum(ties, torch.ones_like(ties)) * step
        moved = 0.5 * self.jumps / self.doubt.square().clamp(min=1e-38) * jump_size.square()
        jumps = over + torch.where(tie < self.doubt, moved, 0.0)
        doubt = torch.where(tie < reach, jump_size, 0.0)
        return Noisy(value=value, variance=torch.zeros_like(value), jumps=jumps, doubt=doubt)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A scale, and its error from rounding the largest value in its scope.

    scale: broadcastable to the values. doubt: the largest relative error, 0 for most.
    chance: the probability of that error. All have the same shape.
    """

    scale: Tensor
    doubt: Tensor
    chance: Tensor

    def of(self, ranks: slice) -> Scale:
        """Return the scales [world] of some ranks as [w, 1, 1], broadcastable to [w, R, c]."""
        scale, doubt, chance = (t[ranks, None, None] for t in self._all)
        return Scale(scale=scale, doubt=doubt, chance=chance)

    def or_larger(self, other: Scale, ranks: slice) -> Scale:
        """Return the scales [world], with the other [w, 1, 1] of some ranks where it is larger."""
        larger = other.scale[:, 0, 0] > self.scale[ranks]
        merged = [t.clone() for t in self._all]
        for target, candidate in zip(merged, other._all, strict=True):
            target[ranks] = torch.where(larger, candidate[:, 0, 0], target[ranks])
        return Scale(scale=merged[0], doubt=merged[1], chance=merged[2])

    @property
    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.scale, self.doubt, self.chance


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


def gathered(numerics: Numerics, terms: int) -> float:
    """Return the relative variance of a sum of `terms` products."""
    return numerics.accumulation**2 * min(terms, numerics.promoted or terms)


def of_each_sum(x: Tensor, w: Tensor, numerics: Numerics) -> Tensor:
    """Return the standard deviation [R, O] of each element of x [R, I] @ w [O, I].T.

    If the hardware aligns products, it depends on the largest product and the sum so far, and can
    be many times the average, which `gathered` gives.
    """
    terms = x.shape[1]
    if numerics.aligned is None:
        lengths = x.square().sum(dim=1, keepdim=True) * w.square().sum(dim=1)
        return (gathered(numerics, terms) / terms * lengths).sqrt()
    group_size, bits = numerics.aligned
    largest, sums = _largest(x, w, group_size), _in_groups(x, w, group_size)
    before = torch.zeros_like(sums)
    for group in range(1, len(sums)):
        if group * group_size % (numerics.promoted or terms + 1):
            before[group] = before[group - 1] + sums[group - 1]
    # Each product and the sum so far lose up to a step, whose variance is a third of its square.
    # A step is a power of two and `largest` an upper bound: another third for both, measured.
    lost = (group_size + 1) / 9 * 4.0**-bits
    return (lost * (largest.square() + before.square()).sum(dim=0)).sqrt()


def _largest(x: Tensor, w: Tensor, group_size: int) -> Tensor:
    """Return [groups, R, O] between 1 and 1.6 times the largest product of each group."""
    power, tiny = 8, torch.finfo(x.dtype).tiny
    amax = x.abs().amax(dim=1).clamp(min=tiny), w.abs().amax(dim=1).clamp(min=tiny)
    pairs = zip((x, w), amax, strict=True)
    x_power, w_power = ((t.abs() / size[:, None]) ** power for t, size in pairs)
    sums = _in_groups(x_power, w_power, group_size)
    return sums ** (1 / power) * (amax[0][:, None] * amax[1])


def _in_groups(x: Tensor, w: Tensor, group_size: int) -> Tensor:
    """Return [groups, R, O] what each group of `group_size` terms adds to x @ w.T."""
    padded = (pad(t, (0, -t.shape[1] % group_size)) for t in (x, w))
    x_groups, w_groups = (t.reshape(len(t), -1, group_size).transpose(0, 1) for t in padded)
    return x_groups @ w_groups.transpose(1, 2)


def rounded(x: Noisy, dtype: str) -> Noisy:
    """Round to `dtype`, as the member does: results differ only if a tie is within reach."""
    if dtype == "f32":
        return x
    step, value = formats.step_of(x.value, dtype), formats.on_grid(x.value, dtype)
    return x.settled(value, step, formats.tie_of(x.value, value, dtype))


def intermediate(
    x: Tensor, w13: Tensor, numerics: Numerics, model: str, activation: ActivationTruth
) -> Noisy:
    """Return activation(gate, up) of rows x [R, K] with w13 [2N, K] = [gate; up].

    It is rounded as `numerics` declares. The noise of a product is relative to the root of the sum
    of squares of its terms.
    """
    gate_up = x @ w13.T
    lengths = x.square().sum(dim=1, keepdim=True) * w13.square().sum(dim=1)
    variance = gathered(numerics, x.shape[1]) * lengths / x.shape[1]
    zeros = torch.zeros_like(gate_up)
    product = Noisy(value=gate_up, variance=variance, jumps=zeros, doubt=zeros)
    first = rounded(product, model if numerics.gemm1 == "model" else "f32")
    return rounded(
        _activated(first, activation), model if numerics.activation == "model" else "f32"
    )


def _activated(gate_up: Noisy, activation: ActivationTruth) -> Noisy:
    """Apply the activation [R, 2n] -> [R, n]: errors by its derivatives, plus float32 noise."""
    half = gate_up.value.shape[1] // 2
    gate, up = gate_up.columns(slice(0, half)), gate_up.columns(slice(half, None))
    product = activation(gate.value, up.value)
    by_gate, by_up = product.by_gate, product.by_up

    def spread(of_gate: Tensor, of_up: Tensor) -> Tensor:
        return by_gate.square() * of_gate + by_up.square() * of_up

    return Noisy(
        value=product.value,
        variance=spread(gate.variance, up.variance) + product.noise.square(),
        jumps=spread(gate.jumps, up.jumps),
        doubt=by_gate * gate.doubt + by_up * up.doubt,
    )


def quantize_noisy(h: Noisy, scale: Scale, fmt: Format) -> Noisy:
    """Quantize `h`; an error of the scale shifts every value in its scope."""
    q = formats.quantize(h.value, scale.scale, fmt)
    shift = h.value.abs() * scale.doubt
    unsure = Noisy(
        value=h.value,
        variance=h.variance + (h.value * FLOAT32_NOISE).square(),
        jumps=h.jumps,
        doubt=h.doubt + shift,
    )
    settled = unsure.settled(q.values, q.step, q.tie)
    flipping = torch.minimum(shift * q.step, q.step.square())  # expected square of tie crossings
    return Noisy(
        value=settled.value,
        variance=settled.variance,
        jumps=settled.jumps + scale.chance * (shift.square() + flipping),
        doubt=settled.doubt + shift,
        shift=shift,
    )


def dynamic_scale(h: Noisy, fmt: Format) -> Scale:
    """Return the scale of the values that share one, with the error of their largest value."""
    size = h.value.abs()
    largest = formats.scope_amax(size, fmt)
    rival = (h.doubt > 0) & (size + h.doubt >= largest)
    jumped = torch.where(rival, h.jumps / h.doubt.square().clamp(min=1e-38), 0.0)
    relative = torch.where(rival, h.doubt / largest.clamp(min=1e-30), 0.0)
    return Scale(
        scale=formats.scale_for(largest, fmt),
        doubt=formats.scope_amax(relative, fmt),
        chance=formats.scope_amax(jumped, fmt),
    )
