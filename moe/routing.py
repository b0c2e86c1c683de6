"""Which of the chosen experts live on a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def to_local_ids(topk_ids: Tensor, experts: range) -> Tensor:
    """[T, k] global ids -> local ids of a rank that has `experts`; -1 for all others."""
    local = topk_ids - experts.start
    return torch.where((local >= 0) & (local < len(experts)), local, -1)
