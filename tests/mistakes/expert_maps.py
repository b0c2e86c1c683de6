"""Expert maps as a rank has them, `[E]` local ids with -1 for experts elsewhere, made wrong."""

from __future__ import annotations

import torch


def first(expert_map):
    """The rank's first expert."""
    return int((expert_map == 0).nonzero()[0])


def moved(expert_map, to):
    """The map of as many experts in a row, which begin at expert `to`."""
    local = torch.arange(len(expert_map), dtype=expert_map.dtype) - to
    return torch.where((local >= 0) & (local <= expert_map.max()), local, -1)
