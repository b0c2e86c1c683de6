"""Compute the tolerance of `assert_close` from both dtypes and the declared noise.

The rms error of a row, and of all rows, must keep two limits: the statistical one of independent
errors, and the worst case of both roundings, each with the noise. The worst case is tighter if one
side is much finer; no correct rounding exceeds it, for any values. docs/bounds.md has the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.output import ROW_FACTOR, TOTAL_FACTOR
from moe.reference.result import Answer

if TYPE_CHECKING:
    from torch import Tensor

    from harness.testing.declared_noise import Declared

__tracebackhide__ = True  # pytest shows the caller's line, not these

# dtype -> (bits of the significand, exponent of the smallest step)
GRIDS = {
    torch.bfloat16: (8, -133),
    torch.float16: (11, -24),
    torch.float32: (24, -149),
    torch.float64: (53, -1074),
    torch.float8_e4m3fn: (4, -9),
    torch.float8_e4m3fnuz: (4, -10),
    torch.float8_e5m2: (3, -16),
}
SIGMAS = 6.0  # standard deviations of a row's error
ELEMENT_SIGMAS = 16.0  # of one element's: its sum may have much larger terms than its row's
SKEW_SIGMAS = 8.0  # of a sum of random signs; so at least its square of elements can be skewed
SKEW_FRACTION = 0.75  # of elements on one side; rounding twice skews them by a few %
# Values before the output's rounding are float32; their own roundings may move them over a tie
_PRIOR_ROUNDING = ELEMENT_SIGMAS * 2.0**-24


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Hold both tensors, [rows, columns], in float32, or in float64 if float32 is too coarse."""

    actual: Tensor
    expected: Tensor
    step: Tensor  # distance between neighbours of the coarser dtype, at each expected value
    worst_error: Tensor  # largest error of both roundings: half a step of each dtype
    eps: float  # the coarser dtype's step at 1

    @property
    def size(self) -> Tensor:
        """Return [rows], the squared norm of each expected row."""
        return self.expected.square().sum(dim=1)


def as_pair(actual: Tensor, expected: Tensor) -> Pair:
    """Return both tensors as matrices; the last dimension is the columns."""
    shape = (-1, actual.shape[-1]) if actual.dim() else (1, 1)
    actual_values = actual.detach().reshape(shape)
    expected_values = expected.detach().reshape(shape)
    dtype = torch.float64 if _needs_double(actual_values, expected_values) else torch.float32
    actual_values, expected_values = actual_values.to(dtype), expected_values.to(dtype)
    steps = [_step(expected_values, *GRIDS[side.dtype]) for side in (actual, expected)]
    bits = min(GRIDS[side.dtype][0] for side in (actual, expected))
    worst_error = (steps[0] + steps[1]) / 2
    if bits < GRIDS[torch.float32][0]:
        worst_error += _PRIOR_ROUNDING * expected_values.abs()
    return Pair(
        actual=actual_values,
        expected=expected_values,
        step=torch.maximum(*steps),
        worst_error=worst_error,
        eps=2.0 ** (1 - bits),
    )


def _needs_double(actual: Tensor, expected: Tensor) -> bool:
    """Tell whether float32 is too coarse for the tensors, or for the range of their squares."""
    wide_dtypes = {torch.float32, torch.float64}
    if actual.dtype in wide_dtypes or expected.dtype == torch.float64:
        return True
    largest = expected.to(torch.float32).abs().amax(dim=1)
    largest = largest[largest > 0]
    return bool((largest < 2.0**-40).any() or (largest > 2.0**40).any())


def _step(x: Tensor, bits: int, smallest: int) -> Tensor:
    _, exponent = torch.frexp(x)
    exponent = torch.where(x == 0, smallest, exponent - bits).clamp(min=smallest)
    return torch.ldexp(torch.ones_like(x), exponent)


def reference_with_tolerance(pair: Pair, declared: Declared) -> tuple[Answer, float]:
    """Return the expected rows with their variance, and the factor of all rows, for `judge`.

    The factor of a row is ROW_FACTOR; rows of zeros have variance 0.
    """
    size = pair.size
    if declared.rel_rms is not None:
        rows = declared.rel_rms**2 * size
        total_sq = rows.sum()
    else:
        rows, total_sq = _limits(pair, size, declared.noise)
    variance = rows / ROW_FACTOR**2
    total = float(variance.sum())
    zeros = torch.zeros_like(size)
    answer = Answer(
        out=pair.expected,
        variance=variance,
        flips=zeros,
        amax1=zeros.new_zeros(()),
        amax2=zeros.new_zeros(()),
    )
    return answer, math.sqrt(float(total_sq) / total) if total else TOTAL_FACTOR


def _limits(pair: Pair, size: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Return the largest squared errors, [rows] of each row and [] of all rows together."""
    nonzero = size > 0
    fractions = pair.expected.square() / torch.where(nonzero, size, torch.ones_like(size))[:, None]
    sum_of_squares, largest = fractions.square().sum(dim=1), fractions.amax(dim=1)
    worst_error = pair.worst_error.square().sum(dim=1) * nonzero
    mean_square = pair.step.square().sum(dim=1) / 6 * nonzero
    # A row may be a single element that undeclared noise moved over a tie
    loosened = (ROW_FACTOR / TOTAL_FACTOR) ** 2 * worst_error
    rows = _limit(
        loosened, mean_square, noise**2 * size, _scatter(sum_of_squares, largest, ROW_FACTOR)
    )
    row_fractions = size / size.sum().clamp(min=torch.finfo(size.dtype).tiny)
    scatter = _scatter(
        (sum_of_squares * row_fractions.square()).sum(),
        (largest * row_fractions).amax(),
        TOTAL_FACTOR,
    )
    return rows, _limit(worst_error.sum(), mean_square.sum(), noise**2 * size.sum(), scatter)


def _limit(worst_error: Tensor, mean_square: Tensor, noise: Tensor, scatter: Tensor) -> Tensor:
    """Return the smaller of two squared limits, both of which a correct output keeps.

    worst_error: the largest squared error of both roundings. mean_square: the mean one, if both
    sides are rounded to the coarser dtype.
    """
    at_most = (worst_error.sqrt() + (scatter * noise).sqrt()).square()
    return torch.minimum(at_most, scatter * (mean_square + noise))


def _scatter(sum_of_squares: Tensor, largest: Tensor, factor: float) -> Tensor:
    """Return the limit of a random mean square, relative to its mean: at least factor**2.

    sum_of_squares, largest: of the elements' fractions of the mean square. Errors in these
    proportions exceed the limit with probability exp(-SIGMAS**2 / 2) at most (Laurent and Massart,
    2000).
    """
    x = SIGMAS**2 / 2
    return (1 + 2 * (x * sum_of_squares).sqrt() + 2 * x * largest).clamp(min=factor**2)


def _noise(pair: Pair, noise: float) -> Tensor:
    """Return [rows, columns] or [], the largest error of each element by the declared noise.

    Noise may be uniform over a row or proportional to each element.
    """
    if noise == 0:
        return pair.expected.new_zeros(())
    rms = pair.expected.square().mean(dim=1, keepdim=True).sqrt()
    return noise * torch.maximum(ELEMENT_SIGMAS * rms, SIGMAS * pair.expected.abs())


def wrong_elements(pair: Pair, noise: float) -> Tensor:
    """Return [rows, columns] bool: errors above a step of the coarser side plus noise, or NaN.

    A full step, not half of one: undeclared noise may move a value over a tie.
    """
    tolerance = pair.step * (pair.size > 0)[:, None] + _noise(pair, noise)
    return ~((pair.actual - pair.expected).abs() <= tolerance)


@dataclass(frozen=True, kw_only=True)
class Skew:
    """Describe errors that no correct rounding makes, mostly on one side.

    elements: [rows, columns] bool. fraction: of these elements that lie on `side`.
    """

    elements: Tensor
    fraction: float
    side: str


def one_sided(pair: Pair, noise: float) -> Skew | None:
    """Return the elements beyond half a step plus noise if most lie on one side; else None.

    A correct output has no such elements. Undeclared noise moves a few over a tie, to both sides;
    truncation, or a factor close to 1, moves many, nearly all to one side.
    """
    if pair.eps <= torch.finfo(torch.float32).eps:
        return None  # float32 results may well be off by a step of float32
    error = pair.actual - pair.expected
    exceeding = error.abs() > pair.worst_error + _noise(pair, noise)
    sign = error[exceeding].sign()
    outward, upward = int((sign * pair.expected[exceeding].sign()).sum()), int(sign.sum())
    surplus, side = max(
        (outward, "away from zero"), (-outward, "toward zero"), (upward, "up"), (-upward, "down")
    )
    if surplus <= SKEW_SIGMAS * math.sqrt(len(sign)):
        return None
    fraction = (1 + surplus / len(sign)) / 2
    if fraction <= SKEW_FRACTION:
        return None
    return Skew(elements=exceeding, fraction=fraction, side=side)
