"""Measure how much of a row few columns are: there, errors of roundings hardly average out.

Steps grow with values. Of a token that zero experts return, or whose experts add little, one column
may be most of the row: then its rounding is most of the row's error, in one direction.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

NORMAL = 3.0  # E[q^4] / E[q^2]^2 of normal columns
SIGMAS = 6.0  # standard deviations of a sum of few squares
UNIFORM = math.sqrt(3)  # the largest error of a rounding, in its standard deviations


def shares(out: Tensor) -> Tensor:
    """Return [T] float64, sum q^4 / (sum q^2)^2 of each row of [T, K]: 1 / K to 1, 0 of zeros."""
    fourth, second = (
        torch.linalg.vector_norm(out, ord=order, dim=1, dtype=torch.float64) for order in (4, 2)
    )
    return torch.where(second > 0, (fourth / second.clamp(min=1e-300)) ** 4, 0.0)


def total_factor(variance: Tensor, out: Tensor) -> float:
    """Return the least factor of all rows together; at most that of a single rounding.

    variance: [T], of each row. Rows of normal columns count as K values each, and those of which
    few columns are most as fewer.
    """
    columns = max(out.shape[1], 1)
    fractions = variance.double() / variance.double().sum()
    fewest = torch.maximum(shares(out) / NORMAL, torch.full_like(fractions, 1 / columns))
    concentration = float((fractions.square() * fewest).sum().nan_to_num(0.0).clamp(min=1e-12))
    return min(UNIFORM, 1 + SIGMAS * math.sqrt(concentration / 2))
