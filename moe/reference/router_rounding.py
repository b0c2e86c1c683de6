"""Bound what a router may return that rounds as its row declares.

Float32 implementations of a step differ by noise, and a value near a tie may then be rounded
either way. Every step rises with its inputs (and falls with the sum that it divides by), and so
does rounding: the ends of an interval become those of the next one. Most intervals are one point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.reference.formats import on_grid, step_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.router_numerics import RouterNumerics
    from moe.routers.base import RouterTruth

# of a step in float32, relative: a few roundings of 2**-24 and the error of exp
STEP_NOISE = 2.0**-20
_BITS = 24  # of float32's significand
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

    def summed(self, dtype: str) -> Interval:
        """Return the sums [T, 1] of values [T, k] of this dtype, with float32's noise if any.

        Sums of a few narrow numbers are exact, and often lie on a tie.
        """
        sums = self.map(lambda values: values.sum(dim=1, keepdim=True))
        finest = step_of(self.low, dtype).amin(dim=1, keepdim=True)  # all are multiples of it
        return sums.noisy_unless(sums.high <= 2.0**_BITS * finest)

    def times(self, factor: float) -> Interval:
        """Return the products, with float32's noise unless they are numbers of float32."""
        products = self.map(lambda values: values * factor)
        ends = (products.low, products.high)
        is_low, is_high = (values == values.float().double() for values in ends)
        return products.noisy_unless(is_low & is_high)

    def noisy_unless(self, is_exact: Tensor) -> Interval:
        """Return these values where they are exact, and elsewhere with float32's noise."""
        wide = self.widened()
        pairs = ((self.low, wide.low), (self.high, wide.high))
        low, high = (torch.where(is_exact, exact, noisy) for exact, noisy in pairs)
        return Interval(low=low, high=high)

    def kept_in(self, dtype: str) -> Interval:
        """Return these values rounded to a dtype."""
        return self.map(lambda values: on_grid(values, dtype))

    def divided_by(self, other: Interval) -> Interval:
        """Return the quotients, with float32's noise."""
        return Interval(low=self.low / other.high, high=self.high / other.low).widened()


def rounded_scores(router: RouterTruth, logits: Tensor, numerics: RouterNumerics) -> Interval:
    """Return the scores [T, E] of all experts. numerics: resolved, as in what follows."""
    if numerics.log_sum != "f32":
        return by_log_sum(logits, numerics.log_sum).kept_in(numerics.scores)
    inner, outer = (getattr(router, name, None) for name in ("inner", "outer"))
    if inner is not None and outer is not None:
        first = Interval.around(inner(logits)).kept_in(numerics.inner)
        return first.map(outer).widened().kept_in(numerics.scores)
    return Interval.around(all_scores(router, logits)).kept_in(numerics.scores)


def by_log_sum(logits: Tensor, dtype: str) -> Interval:
    """Return the softmax [T, E] as exp(logit - logsumexp), each step before the last in a dtype.

    The steps are those of torch.logsumexp: exp(logit - largest), their sum, its logarithm, and that
    plus the largest. Sums and differences of two numbers are rounded to float32 first.
    """
    plain = logits.double()
    largest = plain.amax(dim=1, keepdim=True)
    powers = Interval.around((_float32(plain - largest, dtype)).exp()).kept_in(dtype)
    sums = powers.summed(dtype).kept_in(dtype)
    logs = sums.map(torch.log).widened().kept_in(dtype)
    total = logs.map(lambda values: _float32(values + largest, dtype))
    low, high = (_float32(plain - end, dtype).exp() for end in (total.high, total.low))
    return Interval(low=Interval.around(low).low, high=Interval.around(high).high)


def _float32(values: Tensor, dtype: str) -> Tensor:
    """Return float64 values as float32 arithmetic gives them, then rounded to a dtype."""
    return on_grid(values.float().double(), dtype)


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
        own = own.divided_by(own.summed(_narrower(numerics)).kept_in(numerics.total))
    own = own.kept_in(numerics.weights)
    return own.times(scale).kept_in(numerics.scaled)


def _narrower(numerics: RouterNumerics) -> str:
    """Return on which grid the chosen scores are: they may be rounded as scores alone."""
    return numerics.scores if numerics.chosen == "f32" else numerics.chosen
