"""Compute the error of a correct output along the reference, for each row.

Of the square of an error in a random direction, only 1/K is along a row of K columns. But the
second product turns an error of intermediate j into a multiple of column j of its matrix, and the
row is the sum of these columns, each times its intermediate. So the more an intermediate
contributes to the row, the more of its error is along the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.error_propagation import Noisy


def along_itself(h: Noisy, power: Tensor, length: Tensor, lost: float) -> Tensor:
    """Return the parts [3, R] of <error of y, y>, see `Answer.along`, summed over ranks.

    h: [w, R, c] each rank's columns. power: [w, R, c] or [w, 1, c], squared lengths of their
    columns of the second matrix. length: [w, R] squared lengths of y. lost: the relative loss of
    truncated sums, all in one direction.
    """
    size = h.value.abs()
    variance = ((h.variance + h.jumps) * (size * power).square()).sum(dim=2)
    flips = (h.doubt * size * power).square().sum(dim=2)
    common = lost * length
    if h.shift is not None:
        common = common + (h.shift * size * power).sum(dim=2)
    return torch.stack([variance, flips, common]).sum(dim=1)
