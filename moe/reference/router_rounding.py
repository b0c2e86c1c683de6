"""Bound what a router may return that rounds as its row declares.

Float32 implementations of a step differ by noise, and a value near a tie may then be rounded
either way. Every step rises with its inputs (and falls with the sum that it divides by), and so
does rounding: the ends of an interval become those of the next one. Most intervals are one point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.router_numerics import RouterNumerics
    from moe.routers.base import RouterTruth

# of a step in float32, relative: a few roundings of 2**-24 and the error of exp
STEP_NOISE = 2.0**-20
_SUBNORMAL = 2.0**-126  # float32 loses digits below, or everything


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Hold the ends between which values are, float64, none negative."""

    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, values: Tensor) -> Interval:
        """Return what float32 implementations of a score may have in place of these values.

        The error of exp(x) grows with x, which is about the logarithm of a small score.
        """
        size = values.clamp(min=torch.finfo(torch.float64).tiny).log().abs()
        noise = STEP_NOISE * (1 + size / 8) * values + _SUBNORMAL
        return cls(low=(values - noise).clamp(min=0.0), high=values + noise)

    @property
    def middle(self) -> Tensor:
        """Return what to show of them."""
        return (self.low + self.high) / 2

    def exclude(self, values: Tensor) -> Tensor:
        """Tell of each value whether it is outside, or not finite."""
        return ~((values >= self.low) & (values <= self.high) & values.isfinite())

    def map(self, step: Callable[[Tensor], Tensor]) -> Interval:
        """Return the values of a function that rises."""
        return Interval(low=step(self.low), high=step(self.high))

    def widened(self) -> Interval:
        """Return what float32 implementations of the last step may have in place of these."""
        return Interval(low=self.low * (1 - STEP_NOISE), high=self.high * (1 + STEP_NOISE))

    def kept_in(self, dtype: str) -> Interval:
        """Return these values rounded to a dtype."""
        return self.map(lambda values: on_grid(values, dtype))

    def divided_by(self, other: Interval) -> Interval:
        """Return the quotients, with float32's noise."""
        return Interval(low=self.low / other.high, high=self.high / other.low).widened()


def rounded_scores(router: RouterTruth, logits: Tensor, numerics: RouterNumerics) -> Interval:
    """Return the scores [T, E] of all experts. numerics: resolved, as in what follows."""
    inner, outer = (getattr(router, name, None) for name in ("inner", "outer"))
    if inner is not None and outer is not None:
        first = Interval.around(inner(logits)).kept_in(numerics.inner)
        return first.map(outer).widened().kept_in(numerics.scores)
    return Interval.around(all_scores(router, logits)).kept_in(numerics.scores)


def all_scores(router: RouterTruth, logits: Tensor) -> Tensor:
    """Return [T, E] float64. A truth without `scores` weighs every expert instead."""
    if hasattr(router, "scores"):
        return router.scores(logits)
    every = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    return router.weights(logits, every, renormalize=False).double()


def rounded_weights(
    chosen: Interval, numerics: RouterNumerics, *, renormalize: bool, scale: float
) -> Interval:
    """Return the weights [T, k] of the experts with these scores, renormalised and scaled."""
    own = chosen.kept_in(numerics.chosen)
    if renormalize:
        summed = own.map(lambda scores: scores.sum(dim=1, keepdim=True)).widened()
        own = own.divided_by(summed.kept_in(numerics.total))
    own = own.kept_in(numerics.weights)
    return own.map(lambda weights: weights * scale).widened().kept_in(numerics.scaled)
