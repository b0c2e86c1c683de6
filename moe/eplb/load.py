"""Record how many tokens each expert had on this rank in the last calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from moe.collectives import Group
    from moe.placement import Placement


class LoadWindow:
    """Count the rows of each expert, by logical id, over a window of calls.

    Counts are added by logical id when they are recorded, so that a window may reach back beyond a
    rebalance. calls: [W, E] int64, one row for each of the last W calls of this rank, in turn.
    """

    def __init__(self, num_experts: int, window: int, device: torch.device) -> None:
        self.calls = torch.zeros((window, num_experts), dtype=torch.int64, device=device)
        self._next = 0
        self._logical = torch.empty(0, dtype=torch.int64, device=device)

    def follow(self, placement: Placement, ep_rank: int) -> None:
        """Count by this placement from now on."""
        logical = placement.experts_of(ep_rank)
        self._logical = torch.tensor(logical, dtype=torch.int64, device=self.calls.device)

    def record(self, local_ids: Tensor) -> None:
        """Add one call. local_ids: [G, k] the rank's slots, -1 = none; no device sync."""
        slots = len(self._logical)
        ids = local_ids.long().flatten()
        by_slot = self.calls.new_zeros(slots + 1)
        by_slot.scatter_add_(0, ids.where(ids >= 0, slots), torch.ones_like(ids))
        row = self.calls[self._next]
        row.zero_()
        row.index_add_(0, self._logical, by_slot[:slots])
        self._next = (self._next + 1) % len(self.calls)

    def total(self, group: Group) -> list[int]:
        """Return [E], the tokens of each expert on all ranks of the EP group. Collective."""
        return [int(count) for count in group.all_reduce(self.calls.sum(dim=0)).tolist()]
