"""Estimate the error of sums of products: in float32, or in the accumulators of tensor cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from moe.reference.kept_sums import row_squares

if TYPE_CHECKING:
    from torch import Tensor

    from moe.numerics import Numerics
    from moe.reference.row_matrices import RowMatrices

SAMPLE = 32  # columns


def gathered(numerics: Numerics, terms: int) -> float:
    """Return the relative variance of a sum of `terms` products."""
    assert numerics.accumulation is not None, f"numerics leave {numerics.unstated} unstated"
    return numerics.accumulation**2 * min(terms, numerics.promoted or terms)


def rounds_nothing(
    x: Tensor, w: RowMatrices, numerics: Numerics, part: range | None = None
) -> Tensor:
    """Return bool [R, O]: whether rows of x [R, I] times their matrix [O, I] are exact.

    They are in any order. part: the columns of the matrices that are multiplied; None: all.

    It is if all terms are multiples of a unit, and no sum of their sizes has more units than the
    accumulator tells apart. Codes of few bits whose scales are powers of two have such sums, and
    they often lie exactly on a tie of the layer's dtype.
    """
    assert numerics.accumulation is not None, f"numerics leave {numerics.unstated} unstated"
    told_apart = numerics.accumulation
    if numerics.aligned is not None:
        told_apart = max(told_apart, 2.0 ** -numerics.aligned[1])
    # With more columns a unit only shrinks and a size grows: mostly a few show that none is exact.
    part = range(x.shape[1]) if part is None else part
    sample = part[:SAMPLE]
    few = _has_few_units(_extent(x[:, : len(sample)]), _extents(w, sample), told_apart)
    if len(part) > len(sample) and few.any():
        rows = few.any(dim=1).nonzero()[:, 0]
        of_weight = _extents(w, part)
        of_weight = of_weight if len(of_weight) == 1 else of_weight[rows]
        few[rows] = _has_few_units(_extent(x[rows, : len(part)]), of_weight, told_apart)
    return few


def _has_few_units(x: Tensor, w: Tensor, told_apart: float) -> Tensor:
    """Return bool [R, O]: whether a sum's size is few enough units of its terms.

    x: [2, R], w: [R, 2, O] or [1, 2, O], see `_extent`. told_apart: the unit that an accumulator
    tells apart, over the size of its sum.
    """
    units, size = x[:, :, None]
    has_few: Tensor = size * told_apart * w[:, 1] <= units * w[:, 0]
    return has_few


def _extent(x: Tensor) -> Tensor:
    """Return float64 [2, R], the unit and the length of each row of x [R, I]."""
    x = x.contiguous()
    size = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
    return torch.stack([unit(x).double(), size])


def _extents(w: RowMatrices, part: range) -> Tensor:
    """Return [R, 2, O] or [1, 2, O], the `_extent` of some columns of each row's matrix."""
    return w.of_rows(("extent", part), lambda matrix: _extent(matrix[:, part.start : part.stop]))


def unit(x: Tensor) -> Tensor:
    """Return [R], the largest power of two whose multiples all of x [R, I] are, in x's dtype.

    x: float32 or float64, contiguous. The unit of a row of zeros is infinite.
    """
    words = x.view(torch.int32 if x.dtype == torch.float32 else torch.int64)
    size = x.abs()
    # Without the lowest bit that is set a number is its unit less. A power of two has no such bit.
    units = size - (words & (words - 1)).view(x.dtype).abs_()
    is_power = words << (9 if x.dtype == torch.float32 else 12) == 0
    units = torch.where(is_power, size, units)
    return units.masked_fill_(x == 0, torch.inf).amin(dim=1)


def of_each_sum(x: Tensor, w: Tensor, numerics: Numerics) -> Tensor:
    """Return the standard deviation [R, O] of each element of x [R, I] @ w [O, I].T.

    If the hardware aligns products, it depends on the largest product and the sum so far, and can
    be many times the average, which `gathered` gives.
    """
    terms = x.shape[1]
    if numerics.aligned is None:
        lengths = x.square().sum(dim=1, keepdim=True) * row_squares(w)
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
