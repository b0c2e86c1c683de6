"""Values that carry what is known of their noise through rounding and quantization.

The reference is one right answer; another right member differs by its own sums' noise and by the
values which that noise carries over a rounding tie. `Noisy` follows both, stage by stage, so
that the bound on the output is worked out from the case's own numbers (docs/bounds.md).
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

REACH = 5.0  # a tie is within reach of noise at this many of its standard deviations
FLOAT32_NOISE = 2.0**-21  # relative, of a few float32 operations and an exponential


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """A value and how a right member's may differ from it, all elementwise.

    variance: of small noise, as good as normal. jumps: the expected square of rare whole steps,
    where noise carried the value over a rounding tie. doubt: the largest such step, 0 where no
    tie is within reach. shift: what of it all values under one scale have in common; None: nothing.
    """

    value: Tensor
    variance: Tensor
    jumps: Tensor
    doubt: Tensor
    shift: Tensor | None = None

    def columns(self, part: slice) -> Noisy:
        """Some columns, as one rank's shard has them."""
        pieces = (t[:, part] for t in (self.value, self.variance, self.jumps, self.doubt))
        value, variance, jumps, doubt = pieces
        return Noisy(value=value, variance=variance, jumps=jumps, doubt=doubt)

    def by_rank(self, columns: Sequence[range]) -> Noisy:
        """[R, N] -> [w, R, c], see `by_rank`. What fills up is sure to be zero."""
        pieces = (self.value, self.variance, self.jumps, self.doubt)
        value, variance, jumps, doubt = (by_rank(t, columns) for t in pieces)
        return Noisy(value=value, variance=variance, jumps=jumps, doubt=doubt)

    def settled(self, value: Tensor, step: Tensor, tie: Tensor) -> Noisy:
        """After rounding to `value` on a grid of `step`, from a distance `tie` to the next tie.

        Small noise is gone, unless it reached the tie: then the two are whole steps apart. Of
        the jumps before, those towards the tie, half of them, go on as jumps.
        """
        sigma = self.variance.sqrt()
        over = 0.5 * torch.erfc(tie / sigma.clamp(min=1e-30) / 2**0.5) * step.square()
        reach = REACH * sigma + self.doubt
        ties = ((reach - tie) / step.clamp(min=1e-38)).floor() + 1  # that lie within reach
        jump_size = torch.maximum(ties, torch.ones_like(ties)) * step
        moved = 0.5 * self.jumps / self.doubt.square().clamp(min=1e-38) * jump_size.square()
        jumps = over + torch.where(tie < self.doubt, moved, 0.0)
        doubt = torch.where(tie < reach, jump_size, 0.0)
        return Noisy(value=value, variance=torch.zeros_like(value), jumps=jumps, doubt=doubt)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A scale, and how far a rounding of its largest value may have moved it.

    scale: broadcastable to the values. doubt: the largest relative shift, 0 for most.
    chance: the probability of that shift. All of one shape.
    """

    scale: Tensor
    doubt: Tensor
    chance: Tensor

    def of(self, ranks: slice) -> Scale:
        """[world] -> [w, 1, 1] those of some ranks, broadcastable to their values [w, R, c]."""
        scale, doubt, chance = (t[ranks, None, None] for t in self._all)
        return Scale(scale=scale, doubt=doubt, chance=chance)

    def or_larger(self, other: Scale, ranks: slice) -> Scale:
        """[world], and the other [w, 1, 1] of some ranks: of each rank the larger scale."""
        larger = other.scale[:, 0, 0] > self.scale[ranks]
        merged = [t.clone() for t in self._all]
        for target, candidate in zip(merged, other._all, strict=True):
            target[ranks] = torch.where(larger, candidate[:, 0, 0], target[ranks])
        return Scale(scale=merged[0], doubt=merged[1], chance=merged[2])

    @property
    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.scale, self.doubt, self.chance


def by_rank(x: Tensor, columns: Sequence[range]) -> Tensor:
    """[A, N] -> [w, A, c]: each rank's columns, shorter pieces filled up with zeros."""
    width = max(len(part) for part in columns)
    if all(len(part) == width for part in columns):
        contiguous = x[:, columns[0].start : columns[-1].stop]
        return contiguous.reshape(len(x), len(columns), width).transpose(0, 1)
    pieces = (x[:, part.start : part.stop] for part in columns)
    return torch.stack([pad(piece, (0, width - piece.shape[1])) for piece in pieces])


def rounding_variance(x: Tensor, dtype: str) -> Tensor:
    """Of one rounding to the model dtype, elementwise: a step squared over twelve."""
    return formats.step_of(x, dtype).square() / 12


def gathered(numerics: Numerics, terms: int) -> float:
    """Relative variance of a sum of so many products."""
    return numerics.accumulation**2 * min(terms, numerics.promoted or terms)


def of_each_sum(x: Tensor, w: Tensor, numerics: Numerics) -> Tensor:
    """[R, I], [O, I] -> [R, O] the standard deviation of each element of x @ w.T by itself.

    Where products are aligned it follows the largest of them and the sum so far, and can be many
    times what it is on average; `gathered` gives that average.
    """
    terms = x.shape[1]
    if numerics.aligned is None:
        lengths = x.square().sum(dim=1, keepdim=True) * w.square().sum(dim=1)
        return (gathered(numerics, terms) / terms * lengths).sqrt()
    at_a_time, bits = numerics.aligned
    largest, sums = _largest(x, w, at_a_time), _in_groups(x, w, at_a_time)
    before = torch.zeros_like(sums)
    for group in range(1, len(sums)):
        if group * at_a_time % (numerics.promoted or terms + 1):
            before[group] = before[group - 1] + sums[group - 1]
    # Each of the products, and the sum so far, loses up to a step: a third of its square. A step
    # is a power of two and `largest` more than the largest: together another third, measured.
    lost = (at_a_time + 1) / 9 * 4.0**-bits
    return (lost * (largest.square() + before.square()).sum(dim=0)).sqrt()


def _largest(x: Tensor, w: Tensor, at_a_time: int) -> Tensor:
    """[groups, R, O] at least the largest product of each group, at most 1.6 times it."""
    power, tiny = 8, torch.finfo(x.dtype).tiny
    widest = x.abs().amax(dim=1).clamp(min=tiny), w.abs().amax(dim=1).clamp(min=tiny)
    pairs = zip((x, w), widest, strict=True)
    x_power, w_power = ((t.abs() / size[:, None]) ** power for t, size in pairs)
    return _in_groups(x_power, w_power, at_a_time) ** (1 / power) * (widest[0][:, None] * widest[1])


def _in_groups(x: Tensor, w: Tensor, at_a_time: int) -> Tensor:
    """[groups, R, O] what each group of so many terms adds to x @ w.T."""
    filled = (pad(t, (0, -t.shape[1] % at_a_time)) for t in (x, w))
    x_groups, w_groups = (t.reshape(len(t), -1, at_a_time).transpose(0, 1) for t in filled)
    return x_groups @ w_groups.transpose(1, 2)


def rounded(x: Noisy, dtype: str) -> Noisy:
    """Both sides round to the dtype: they agree but where a tie is within reach."""
    if dtype == "f32":
        return x
    step, value = formats.step_of(x.value, dtype), formats.on_grid(x.value, dtype)
    return x.settled(value, step, formats.tie_of(x.value, value, dtype))


def intermediate(
    x: Tensor, w13: Tensor, numerics: Numerics, model: str, activation: ActivationTruth
) -> Noisy:
    """activation(gate, up) of rows x [R, K] with w13 [2N, K] = [gate; up], rounded as declared.

    The noise of a product is relative to the root of the sum of squares of what it adds up.
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
    """[R, 2n] -> [R, n]; noise goes through the derivatives, plus float32's own."""
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
    """Quantize; where the scale itself is in doubt, everything under it shifts with it."""
    q = formats.quantize(h.value, scale.scale, fmt)
    shift = h.value.abs() * scale.doubt
    unsure = Noisy(
        value=h.value,
        variance=h.variance + (h.value * FLOAT32_NOISE).square(),
        jumps=h.jumps,
        doubt=h.doubt + shift,
    )
    settled = unsure.settled(q.values, q.step, q.tie)
    flipping = torch.minimum(shift * q.step, q.step.square())  # the share that crosses a tie
    return Noisy(
        value=settled.value,
        variance=settled.variance,
        jumps=settled.jumps + scale.chance * (shift.square() + flipping),
        doubt=settled.doubt + shift,
        shift=shift,
    )


def dynamic_scale(h: Noisy, fmt: Format) -> Scale:
    """The scale of the values that share one; it follows the largest, and that one's jumps."""
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
