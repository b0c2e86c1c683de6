"""Hold the norms of an output's rows, from which every verdict on it is derived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.element_and_bias import ElementAndBias


@dataclass(frozen=True, kw_only=True)
class RowErrors:
    """Hold norms per row, [T] float32: of the error, both sides and the tolerance."""

    distance: Tensor
    actual: Tensor
    reference: Tensor
    tolerance: Tensor
    total_tolerance: Tensor  # each row's part of the tolerance of all rows together
    fine: ElementAndBias

    @property
    def exceeds(self) -> Tensor:
        """Return [T] bool: rows beyond their tolerance; a NaN tolerance counts as exceeded."""
        return ~(self.distance <= self.tolerance)

    @property
    def used(self) -> Tensor:
        """Return [T], the fraction of its tolerance that each row uses."""
        return ratio(self.distance, self.tolerance)

    @property
    def relative_error(self) -> Tensor:
        """Return [T], the norm of each row's error over the norm of its reference."""
        return ratio(self.distance, self.reference)

    @property
    def total_used(self) -> float:
        """Return the fraction of the total tolerance that all rows together use."""
        return float(ratio(norm_of_all(self.distance), norm_of_all(self.total_tolerance)))


def norm_of_all(norms: Tensor) -> Tensor:
    """Return [] float64, the norm of all rows together. norms: [T], of each row."""
    norm: Tensor = torch.linalg.vector_norm(norms, dtype=torch.float64)
    return norm


def ratio(numerators: Tensor, denominators: Tensor) -> Tensor:
    """Return the ratio; 0 / 0 is 0, and x / 0 the largest finite number."""
    zeros, largest = torch.zeros_like(numerators), torch.finfo(numerators.dtype).max
    ratio = torch.where(numerators > 0, numerators / denominators, zeros)
    return torch.where(ratio == torch.inf, largest, ratio)
