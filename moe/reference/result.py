"""Results of the reference: outputs, and the error that a correct member may have.

- `variance`: the expected squared distance of each row, from every declared rounding, the
  accumulation noise of the products, and codes that this noise may move across a tie;
- `flips`: the squared distance if every code within reach of the noise flips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.joined_pairs import JoinedPairs
    from moe.reference.scale_error import Scale


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The correct output for some tokens, before its last rounding, and its allowed error.

    out: [T, K]. variance, flips: [T] float32, squared distances. amax1, amax2: largest absolute
    input and intermediate value, from which static scales are calibrated.

    parts: [world, r, k, K] what each rank adds for each slot of the r requested rows, before the
    router weight; None if not requested. shared: [T, K] of the shared experts, or None.
    tensor_scales: the scale of the input and the scales [world] of the ranks' intermediates, if
    one scale spans many tokens; 0 for a rank without tokens.

    along: [4, T] float32 allowed <y - q, q> of a row, from errors along the row: its variance; its
    square if every code within reach flips; the part that all values share; with its sign, the
    part from router weights that are rounded, or are not. None: unknown, so that directions are
    not judged.
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
    """Sums over the experts; one instance for each call."""

    partial: Tensor  # [ranks, T, K] each rank's weighted sum
    parts: Tensor  # [ranks, r, k, K] see Answer
    place: Tensor  # [T] int64 index of each row among the r requested ones, -1 = not requested
    variance: Tensor  # [T]
    flips: Tensor  # [T]
    along: Tensor  # [3, T] the first parts, see Answer
    unsure: Tensor  # [T, K] change of the output if all router weights were rounded
    amax2: Tensor  # []


def empty_sums(x: Tensor, top_k: int, world_size: int, keep: Tensor | None) -> Sums:
    """Return sums of zeros for tokens x [T, K]. keep: [r] int64 requested rows; None: none."""
    tokens, hidden = x.shape
    keep = torch.empty(0, dtype=torch.int64, device=x.device) if keep is None else keep
    place = torch.full((tokens,), -1, dtype=torch.int64, device=x.device)
    place[keep] = torch.arange(len(keep), device=x.device)
    return Sums(
        partial=x.new_zeros((world_size, tokens, hidden)),
        parts=x.new_zeros((world_size, len(keep), top_k, hidden)),
        place=place,
        variance=x.new_zeros(tokens),
        flips=x.new_zeros(tokens),
        along=x.new_zeros(3, tokens),
        unsure=x.new_zeros(x.shape),
        amax2=x.new_zeros(()),
    )


def record_parts(sums: Sums, pairs: JoinedPairs, parts: Tensor) -> None:
    """Keep what experts add on their ranks, [w, R, K] before the weight, for requested rows."""
    if sums.parts.shape[1] == 0:
        return
    place = sums.place[pairs.rows]
    requested = place >= 0
    sums.parts[pairs.ranks, place[requested], pairs.slots[requested]] = parts[:, requested]
