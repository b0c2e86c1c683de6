"""Catch what the row tolerance misses: one element that is far off, and a bias common to all rows.

The row tolerance limits the norm of a row's error, which one element of thousands hardly changes.
An error along the reference itself (a wrong scale, truncation instead of rounding) is small in
each row but adds up over all of them, while errors of random direction average out in <y - q, q>.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.large_columns import NORMAL, shares
from harness.checks.output_text import interpreter_hint

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.result import Answer

# In standard deviations of a row's average element. Columns differ in size, and so do the terms
# of a sum: the largest element error of 4,650 correct outputs was 7.
ELEMENT_FACTOR = 12.0
SIGMAS = 6.0  # standard deviations of the bias that chance may cause
_FLOAT32_LOSS = 2.0**-18  # relative error of three norms computed in float32


@dataclass(frozen=True, kw_only=True)
class ElementAndBias:
    """Hold the largest element error of each row, and the bias over all rows.

    element_used: [T], each row's worst element error as a fraction of its tolerance.
    bias: mean relative error along the reference. bias_limit: the largest that rounding explains.
    """

    element_used: Tensor
    bias: float
    bias_limit: float

    @property
    def worst_element_used(self) -> float:
        """Return the largest fraction of its tolerance that an element uses."""
        return float(self.element_used.amax())

    @property
    def bias_used(self) -> float:
        """Return the fraction of `bias_limit` that the bias uses."""
        return abs(self.bias) / self.bias_limit if self.bias_limit else 0.0

    def messages(self, actual: Tensor, expected: Tensor) -> list[str]:
        """Return what is wrong. actual, expected: [T, K], every row within its tolerance."""
        messages = []
        exceeding = (~(self.element_used <= 1)).nonzero().flatten()
        if len(exceeding):
            messages.append(_element_text(actual, expected, self.element_used, exceeding))
        if self.bias_used > 1:
            direction = "large" if self.bias > 0 else "small"
            messages.append(
                f"outputs are {100 * abs(self.bias):.2f} % too {direction} on average (rounding "
                f"explains {100 * self.bias_limit:.2f} %): a wrong scale, or truncation instead of "
                f"rounding{interpreter_hint(actual.dtype) if self.bias < 0 else ''}"
            )
        return messages


def measure(values: Tensor, expected: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return norms [T] of error, values and expected, and each row's worst excess error [T].

    values, expected: [T, K]. dtype: what the values were rounded to.
    """
    error = values - expected
    lengths = (torch.linalg.vector_norm(v, dim=1) for v in (error, values, expected))
    return (*lengths, _excess(error, expected, dtype).amax(dim=1))


def beyond(error: Tensor, answer: Answer, dtype: torch.dtype) -> Tensor:
    """Return [T, K] bool: single elements whose error [T, K] exceeds the element tolerance."""
    if answer.along is None:
        return torch.zeros_like(error, dtype=torch.bool)
    return _excess(error, answer.out, dtype) > _element_tolerance(answer)[:, None]


def _excess(error: Tensor, expected: Tensor, dtype: torch.dtype) -> Tensor:
    """Return [T, K], the part of each error that two roundings to the dtype do not explain."""
    return error.abs().sub_(expected.abs(), alpha=2 * torch.finfo(dtype).eps)


def _element_tolerance(answer: Answer) -> Tensor:
    """Return [T], the tolerance of a single element of each row, beyond its roundings."""
    mean_square = (answer.variance + answer.flips) / answer.out.shape[1]
    return (ELEMENT_FACTOR * mean_square.sqrt()).clamp(min=1e-30)


def tolerance_used(
    answer: Answer, distance: Tensor, actual: Tensor, reference: Tensor, peak: Tensor
) -> ElementAndBias:
    """Return how much of the element tolerance and of the bias limit is used.

    distance, actual, reference, peak: [T] each, from `measure`. Without `answer.along` (an answer
    that the reference did not compute) nothing is judged: all fractions are 0.
    """
    if answer.along is None:
        return ElementAndBias(element_used=torch.zeros_like(peak), bias=0.0, bias_limit=0.0)
    bias, bias_limit = _bias(answer, answer.along, (distance, actual, reference))
    used = torch.where(peak > 0, peak / _element_tolerance(answer), 0.0)
    return ElementAndBias(element_used=used, bias=bias, bias_limit=bias_limit)


def _bias(
    answer: Answer, along: Tensor, lengths: tuple[Tensor, Tensor, Tensor]
) -> tuple[float, float]:
    """Return <y - q, q> and its limit, relative to <q, q>. lengths: norms [T] of y - q, y, q."""
    distance_sq, actual_sq, reference_sq = (t.double().square() for t in lengths)
    # What a row's variance adds to that of <y - q, q>: q^2 of its columns, each by its part of the
    # variance, which grows as q^2
    share = shares(answer.out).clamp(min=NORMAL / answer.out.shape[1])
    per_column = share * reference_sq
    variance, flips, common, weights = along.double()
    variance_sum = (variance + per_column * answer.variance).sum()
    flips_sum = (flips + per_column * answer.flips).sum()
    sums = torch.stack(
        [
            (actual_sq - reference_sq - distance_sq).sum() / 2,
            variance_sum,
            flips_sum,
            common.sum() + weights.sum().abs(),
            reference_sq.sum(),
        ]
    )
    error, variance_total, flips_total, common_total, size = sums.tolist()
    if not size:
        return 0.0, 0.0
    limit = SIGMAS * math.sqrt(variance_total) + math.sqrt(flips_total) + common_total
    return error / size, limit / size + _FLOAT32_LOSS


def _element_text(actual: Tensor, expected: Tensor, used: Tensor, exceeding: Tensor) -> str:
    row = int(used.argmax())
    values = actual[row].to(expected.dtype)
    column = int((values - expected[row]).abs().argmax())
    return (
        f"every row is within tolerance, but {len(exceeding)} of {len(actual)} rows have single "
        f"elements that are not: [{row}, {column}] is {float(values[column]):.6g}, expected "
        f"{float(expected[row, column]):.6g}, {float(used[row]):.3g}x the tolerance of an element"
    )
