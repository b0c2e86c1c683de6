"""Which of the chosen experts live on a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def to_local_ids(topk_ids: Tensor, expert_map: Tensor) -> Tensor:
    """[T, k] global ids -> local ids by the rank's expert_map [E], -1 where it has no such expert.

    A global id that is no expert's, as -1 is, becomes -1.
    """
    known = (topk_ids >= 0) & (topk_ids < len(expert_map))
    return torch.where(known, expert_map[topk_ids.where(known, 0).long()], -1)
