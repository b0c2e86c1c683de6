"""Convert global expert ids to the local ids of a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def to_local_ids(topk_ids: Tensor, expert_map: Tensor) -> Tensor:
    """Return the local ids, [T, k]; -1 = not on this rank, or not an expert.

    topk_ids: [T, k] global ids; -1 = padding. expert_map: [E], global id -> local id or -1.
    """
    known = (topk_ids >= 0) & (topk_ids < len(expert_map))
    return torch.where(known, expert_map[topk_ids.where(known, 0).long()], -1)
