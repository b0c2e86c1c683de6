"""How far an output may be from its expected tensor, from both dtypes and the declared noise.

Two limits hold at once for the rms of a row and of all rows: what chance makes of independent
errors, and what both roundings can make at most, beside the noise. The second is the tighter one
where one side is much finer; no right rounding leaves it, whatever the values. docs/bounds.md has
the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.output import ALL_MARGIN, ROW_MARGIN
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
    torch.float8_e5m2: (3, -16),
}
SIGMAS = 6.0  # how many standard deviations chance may take a row
ELEMENT_SIGMAS = 16.0  # one element: its own sum may be of much larger terms than its row's
LEAN_SIGMAS = 8.0  # how uneven signs may be by chance; so no fewer than its square can lean
LEAN_SHARE = 0.75  # of elements on one side: a right value that is rounded twice leans by a few %
# What is rounded comes from float32, a few of whose own roundings may take it over a tie
_BEFORE = ELEMENT_SIGMAS * 2.0**-24


@dataclass(frozen=True, kw_only=True)
class Sides:
    """All [rows, columns] float32, or float64 where float32 could not tell both sides apart."""

    actual: Tensor
    expected: Tensor
    step: Tensor  # distance between neighbours of the coarser dtype, at each expected value
    most: Tensor  # what both roundings can make at most: half a step of each dtype
    eps: float  # the coarser dtype's step at 1

    @property
    def size(self) -> Tensor:
        """[rows] squared length of each expected row."""
        return self.expected.square().sum(dim=1)


def sides(actual: Tensor, expected: Tensor) -> Sides:
    """As matrices; the last dimension is the columns."""
    shape = (-1, actual.shape[-1]) if actual.dim() else (1, 1)
    got, want = actual.detach().reshape(shape), expected.detach().reshape(shape)
    dtype = torch.float64 if _needs_double(got, want) else torch.float32
    got, want = got.to(dtype), want.to(dtype)
    steps = [_step(want, *GRIDS[side.dtype]) for side in (actual, expected)]
    bits = min(GRIDS[side.dtype][0] for side in (actual, expected))
    most = (steps[0] + steps[1]) / 2
    if bits < GRIDS[torch.float32][0]:
        most += _BEFORE * want.abs()
    return Sides(
        actual=got,
        expected=want,
        step=torch.maximum(*steps),
        most=most,
        eps=2.0 ** (1 - bits),
    )


def _needs_double(actual: Tensor, expected: Tensor) -> bool:
    """Where float32 could not tell the sides apart, or squares would leave its range."""
    wide = {torch.float32, torch.float64}
    if actual.dtype in wide or expected.dtype == torch.float64:
        return True
    largest = expected.to(torch.float32).abs().amax(dim=1)
    largest = largest[largest > 0]
    return bool((largest < 2.0**-40).any() or (largest > 2.0**40).any())


def _step(x: Tensor, bits: int, smallest: int) -> Tensor:
    _, exponent = torch.frexp(x)
    exponent = torch.where(x == 0, smallest, exponent - bits).clamp(min=smallest)
    return torch.ldexp(torch.ones_like(x), exponent)


def allowed(both: Sides, declared: Declared) -> tuple[Answer, float]:
    """The expected rows with their bounds, for `compare.judge`, and its margin of all rows.

    The row's margin is ROW_MARGIN; rows of zeros have no variance.
    """
    size = both.size
    if declared.rel_rms is not None:
        rows = declared.rel_rms**2 * size
        every = rows.sum()
    else:
        rows, every = _limits(both, size, declared.noise)
    variance = rows / ROW_MARGIN**2
    total = float(variance.sum())
    none = torch.zeros_like(size)
    answer = Answer(
        out=both.expected,
        variance=variance,
        flips=none,
        amax1=none.new_zeros(()),
        amax2=none.new_zeros(()),
    )
    return answer, math.sqrt(float(every) / total) if total else ALL_MARGIN


def _limits(both: Sides, size: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Squared distances: [rows] of each row and [] of all together."""
    there = size > 0
    shares = both.expected.square() / torch.where(there, size, torch.ones_like(size))[:, None]
    even, largest = shares.square().sum(dim=1), shares.amax(dim=1)
    most = both.most.square().sum(dim=1) * there
    chance = both.step.square().sum(dim=1) / 6 * there
    # A row may be one element, which noise that nobody declared took over a tie
    roomy = (ROW_MARGIN / ALL_MARGIN) ** 2 * most
    rows = _limit(roomy, chance, noise**2 * size, _scatter(even, largest, ROW_MARGIN))
    of_all = size / size.sum().clamp(min=torch.finfo(size.dtype).tiny)
    scatter = _scatter((even * of_all.square()).sum(), (largest * of_all).amax(), ALL_MARGIN)
    return rows, _limit(most.sum(), chance.sum(), noise**2 * size.sum(), scatter)


def _limit(most: Tensor, chance: Tensor, noise: Tensor, scatter: Tensor) -> Tensor:
    """The lesser of two squared distances, both of which a right output keeps.

    chance: mean square where both sides are rounded in the coarser dtype; most: none is beyond.
    """
    at_most = (most.sqrt() + (scatter * noise).sqrt()).square()
    return torch.minimum(at_most, scatter * (chance + noise))


def _scatter(even: Tensor, largest: Tensor, margin: float) -> Tensor:
    """What chance makes of a mean square, relative to it: at least the margin's square.

    even, largest: of the elements' shares, the sum of squares and the maximum. Errors in these
    proportions exceed this with a chance below exp(-SIGMAS**2 / 2) (Laurent and Massart, 2000).
    """
    x = SIGMAS**2 / 2
    return (1 + 2 * (x * even).sqrt() + 2 * x * largest).clamp(min=margin**2)


def _noise(both: Sides, noise: float) -> Tensor:
    """[rows, columns] or [] how far the noise may take an element: it may be even over its row,
    or in proportion to each."""
    if noise == 0:
        return both.expected.new_zeros(())
    rms = both.expected.square().mean(dim=1, keepdim=True).sqrt()
    return noise * torch.maximum(ELEMENT_SIGMAS * rms, SIGMAS * both.expected.abs())


def wrong_elements(both: Sides, noise: float) -> Tensor:
    """[rows, columns] bool: off by more than a step of the coarser side and its noise, or not
    finite. A step, not a half: what noise nobody declared takes over a tie is off by as much."""
    limit = both.step * (both.size > 0)[:, None] + _noise(both, noise)
    return ~((both.actual - both.expected).abs() <= limit)


@dataclass(frozen=True, kw_only=True)
class Lean:
    """elements: [rows, columns] bool, none of which a right rounding makes; share: of these that
    lie `where`."""

    elements: Tensor
    share: float
    where: str


def lean(both: Sides, noise: float) -> Lean | None:
    """The elements beyond half a step and their noise, where they lean to one side.

    A right output has none of them. Noise that nobody declared takes a few over a tie, to both
    sides; truncation, or a factor just beside 1, takes many, and nearly all to one side.
    """
    if both.eps <= torch.finfo(torch.float32).eps:
        return None  # what is computed in float32 may well be off by a step of it
    off = both.actual - both.expected
    beyond = off.abs() > both.most + _noise(both, noise)
    sign = off[beyond].sign()
    outward, upward = int((sign * both.expected[beyond].sign()).sum()), int(sign.sum())
    surplus, where = max(
        (outward, "away from zero"), (-outward, "toward zero"), (upward, "up"), (-upward, "down")
    )
    if surplus <= LEAN_SIGMAS * math.sqrt(len(sign)):
        return None
    share = (1 + surplus / len(sign)) / 2
    return Lean(elements=beyond, share=share, where=where) if share > LEAN_SHARE else None
