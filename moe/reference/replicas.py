"""Tell which replica of an expert computes a token, for the reference.

A twin of the layer's own choice, by Python's integers and row by row: the layer computes all rows
at once, on a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from moe.placement import Placement

_GOLDEN = 0x9E37_79B9  # a 32-bit fraction: the golden section of a circle


def replica(row: int, expert: int, count: int) -> int:
    """Return which of `count` replicas of an expert the token in a rank's row `row` goes to.

    Nothing but these three decides, so that ranks with the same tokens agree.
    """
    turns = (row * _GOLDEN + expert * (2**32 - _GOLDEN)) % 2**32
    return turns * count // 2**32


def physical_ids(topk_ids: Tensor, placement: Placement, rows: Tensor | None = None) -> Tensor:
    """Return the physical expert of each slot, [T, k].

    topk_ids: [T, k] logical ids; -1 stays -1, and a zero expert, which no rank holds, is as far
    beyond the physical experts as it is beyond the logical ones. rows: [T] the row of each token on
    its rank; None: 0, 1, 2, ...
    """
    numbers = range(len(topk_ids)) if rows is None else rows.tolist()
    chosen = [
        [_physical(row, e, placement) for e in experts]
        for row, experts in zip(numbers, topk_ids.tolist(), strict=True)
    ]
    shape = topk_ids.shape
    return torch.tensor(chosen, dtype=torch.int64, device=topk_ids.device).view(shape)


def _physical(row: int, expert: int, placement: Placement) -> int:
    if expert < 0:
        return -1
    if expert >= placement.num_experts:
        return expert - placement.num_experts + len(placement.physical_to_logical)
    replicas = placement.replicas_of(expert)
    return replicas[replica(row, expert, len(replicas))]


def owners(physical: Tensor, placement: Placement) -> Tensor:
    """Return the EP rank of each physical id, of the same shape; -1 for ids that no rank holds."""
    ranks = torch.tensor([*placement.ranks, -1], dtype=torch.int64, device=physical.device)
    return ranks[physical.clamp(max=len(placement.ranks))]
