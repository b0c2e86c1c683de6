"""Compute dynamic scales and quantize, together with the errors that a correct member may have.

The largest value of a scope determines its scale, so an error of that value concerns them all. A
scale in float32 follows it; a scale on a grid, of e8m0 or e4m3, jumps to its neighbour or stays.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.reference import formats
from moe.reference.error_propagation import FLOAT32_NOISE, REACH, Noisy

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.formats.format import Format
    from moe.numerics import Numerics


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A scale, and its error from rounding the largest value in its scope.

    scale: broadcastable to the values. doubt: the largest relative error, 0 for most.
    chance: the probability of that error. All have the same shape. others: scales on a grid to
    which noise can move the blocks' scales, equal to `scale` where it cannot, and the probability.
    """

    scale: Tensor
    doubt: Tensor
    chance: Tensor
    others: tuple[tuple[Tensor, Tensor], ...] = ()

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


def quantize_noisy(h: Noisy, scale: Scale, fmt: Format) -> Noisy:
    """Quantize `h`; an error of the scale shifts every value in its scope."""
    q = formats.quantize(h.value, scale.scale, fmt)
    shift = h.value.abs() * scale.doubt
    unsure = Noisy(
        value=h.value,
        variance=h.variance + (h.value * _own_noise(h, fmt)).square(),
        jumps=h.jumps,
        doubt=h.doubt + shift,
    )
    settled = unsure.settled(q.values, q.step, q.tie)
    flipping = torch.minimum(shift * q.step, q.step.square())  # expected square of tie crossings
    jumps = settled.jumps + scale.chance * (shift.square() + flipping)
    doubt = settled.doubt + shift
    for other, chance in scale.others:
        if torch.equal(other, scale.scale):
            continue
        moved = formats.quantize(h.value, other, fmt)
        there = unsure.settled(moved.values, moved.step, moved.tie)
        change = (moved.values - q.values).abs()
        jumps = jumps + chance * (change.square() + there.jumps)
        in_reach = torch.where(other == scale.scale, 0.0, change + there.doubt + shift)
        doubt = torch.maximum(doubt, in_reach)
    return Noisy(
        value=settled.value, variance=settled.variance, jumps=jumps, doubt=doubt, shift=shift
    )


def dynamic_scale(h: Noisy, fmt: Format, numerics: Numerics, total: Scale | None = None) -> Scale:
    """Return the scale of the values that share one, with the error of their largest value.

    total: the global scale, of formats that have one; None: computed from h.
    """
    if fmt.scale_dtype != "f32":
        return _stepped_scale(h, fmt, numerics, total)
    largest, relative, jumped = _largest(h, lambda x: formats.scope_amax(x, fmt))
    return Scale(
        scale=formats.scale_for(largest, fmt, numerics),
        doubt=relative,
        chance=jumped,
    )


def largest_of(h: Noisy) -> Scale:
    """Return the largest value of all rows, with its error, in place of a scale."""
    largest, relative, jumped = _largest(h, formats.tensor_amax)
    return Scale(scale=largest, doubt=relative, chance=jumped)


def _largest(h: Noisy, scope: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest value in each scope, its relative error, and the error's probability."""
    size = h.value.abs()
    largest = scope(size)
    rival = (h.doubt > 0) & (size + h.doubt >= largest)
    jumped = torch.where(rival, h.jumps / h.doubt.square().clamp(min=1e-38), 0.0)
    relative = torch.where(rival, h.doubt / largest.clamp(min=1e-30), 0.0)
    return largest, scope(relative), scope(jumped)


def _stepped_scale(h: Noisy, fmt: Format, numerics: Numerics, total: Scale | None) -> Scale:
    """Return scales on the grid of e8m0 or e4m3, and those to which noise can move them.

    An error of the global scale moves all e4m3 scales near a tie, and shifts the others.
    """
    total = _total(h, fmt) if total is None else total

    def scale_at(size: Tensor, shift: float) -> Tensor:
        shared = None if total is None else total.scale * (1 + shift * total.doubt)
        return formats.scale_for(formats.scope_amax(size, fmt), fmt, numerics, shared)

    size = h.value.abs()
    reach = h.doubt + REACH * h.variance.sqrt()
    scale = scale_at(size, 0)
    above, below = scale_at(size + reach, 1), scale_at((size - reach).clamp(min=0), -1)
    by_noise = scale_at(size + reach - h.doubt, 0) != scale
    by_noise |= scale_at((size - reach + h.doubt).clamp(min=0), 0) != scale
    jumped = _largest(h, lambda x: formats.scope_amax(x, fmt))[2]
    zeros = torch.zeros_like(scale)
    shift = zeros if total is None else zeros + total.doubt
    chance = zeros if total is None else zeros + total.chance
    of_other = torch.where(by_noise, 0.5, (jumped + chance).clamp(max=1.0))
    others = (torch.where(_near(t, scale), scale, t) for t in (above, below))
    pairs = tuple((t, torch.where(t == scale, 0.0, of_other)) for t in others)
    return Scale(scale=scale, doubt=shift, chance=chance, others=pairs)


def _own_noise(h: Noisy, fmt: Format) -> float:
    """Return the relative noise of dividing values by their scale.

    Members may multiply by the reciprocal of a float32 scale. A scale on a grid divides, in float32
    as here, and by a power of two without rounding: so values that were rounded to the layer's
    dtype, of which many lie exactly on a tie, have the same codes everywhere.
    """
    same_bits = fmt.scale_dtype == "e8m0" or h.value.dtype == torch.float32
    return 0.0 if fmt.scale_dtype != "f32" and same_bits else FLOAT32_NOISE


def _near(a: Tensor, b: Tensor) -> Tensor:
    """Return whether scales are one number of their grid: a global scale's error is no step."""
    return torch.isclose(a, b, rtol=2.0**-6, atol=0)


def _total(h: Noisy, fmt: Format) -> Scale | None:
    """Return the global scale of h, of formats that have one."""
    if not fmt.global_scale:
        return None
    largest = largest_of(h)
    return dataclasses.replace(largest, scale=formats.tensor_scale(largest.scale, fmt))
