"""How far a right output may be from the reference along the reference itself.

An error in a random direction has next to no part along the row: of K columns, one K-th of its
square. But the second product turns an error of intermediate j into a multiple of column j of its
matrix, and the row is the sum of just these columns, each times its intermediate. So an error has
more of itself along the row, the more of the row comes from that intermediate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.error_propagation import Noisy


def along_itself(h: Noisy, power: Tensor, length: Tensor, lost: float) -> Tensor:
    """[3, R] what may be in <error of y, y>, see `Answer.along`, summed over ranks.

    h: [w, R, c] each rank's columns. power: [w, c, 1] squared lengths of their columns of the
    second matrix. length: [w, R] of y, squared. lost: what sums may lose in one direction, relative
    to it.
    """
    size = h.value.abs()
    variance = ((h.variance + h.jumps) * size.square()) @ power.square()
    flips = (h.doubt * size).square() @ power.square()
    common = lost * length
    if h.shift is not None:
        common = common + ((h.shift * size) @ power)[:, :, 0]
    return torch.stack([variance[:, :, 0], flips[:, :, 0], common]).sum(dim=1)
