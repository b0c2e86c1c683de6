"""What the reference answers: outputs, and how far a right member may be from them.

- `variance`: the expected squared distance of each row, from every declared rounding, from the
  accumulation noise of the products, and from codes that this noise may push over a tie;
- `flips`: the squared distance if every code within reach of the noise did flip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.error_propagation import Scale


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a right layer gives for some tokens, before its last rounding, and how surely.

    out: [T, K]. variance, flips: [T] float32, squared distances. amax1, amax2: largest absolute
    input and intermediate value, from which static scales are calibrated.

    parts: [world, r, k, K] what each rank adds for each slot of the r rows asked for, before the
    router's weight; None where nobody asked. shared: [T, K] of the shared experts, or None.
    tensor_scales: the input's and the ranks' intermediates' scales [world], where one spans many
    tokens; 0 for a rank that has seen none.

    along: [3, T] float32 how far <y - q, q> of a row may be from 0 because of what moves along the
    row itself: variance; squared, if every code within reach did flip; what all may have in
    common. None: nothing is known, and nobody asks for a direction.
    """

    out: Tensor
    variance: Tensor
    flips: Tensor
    amax1: Tensor
    amax2: Tensor
    parts: Tensor | None = None
    shared: Tensor | None = None
    tensor_scales: tuple[Tensor | None, Scale | None] = (None, None)
    along: Tensor | None = None


@dataclass
class Sums:
    """What accumulates while the experts pass by; one instance a call."""

    partial: Tensor  # [ranks, T, K] each rank's weighted sum
    parts: Tensor  # [ranks, r, k, K] see Answer
    place: Tensor  # [T] int64 index of each row among the r kept ones, -1 = not kept
    variance: Tensor  # [T]
    flips: Tensor  # [T]
    along: Tensor  # [3, T] see Answer
    amax2: Tensor  # []
