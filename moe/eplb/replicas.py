"""Choose the replica to which a token goes, on the device and without a sync.

The choice is a pure function of the token's row on its rank and of the expert: no state, no rank
number. Ranks that hold the same tokens in the same order (the ranks of a TP group, unless tokens
are split over them) therefore choose the same replica, which their sums rely on: each of these
ranks sends the token to other experts, and a replica chosen by one of them only would be added
twice or not at all.

A row's place in a sequence of equal steps on a circle, the golden section of it each, decides: it
spreads any run of rows evenly over the replicas, and every second or third row, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from moe.placement import Placement
    from moe.types import Routing

STEP = 2654435769  # 2**32 divided by the golden ratio
SHIFT = 1640531527  # the step from expert to expert: 2**32 less the other
CIRCLE = 0xFFFF_FFFF


@dataclass(frozen=True, kw_only=True)
class ReplicaMap:
    """Hold where the replicas of each expert are, in tensors that `follow` changes in place.

    physical: [E, C] int32 physical ids of each expert's replicas, padded with -1; C is the largest
    possible number of replicas, so that the shape never changes. counts: [E] int64 replicas in use.
    """

    physical: Tensor
    counts: Tensor

    @property
    def slots(self) -> int:
        """Return the number of physical experts: each expert has one replica, one can have all."""
        return len(self.physical) + self.physical.shape[1] - 1

    @classmethod
    def of(cls, placement: Placement, device: torch.device) -> ReplicaMap:
        """Return the map of a placement."""
        experts = placement.num_experts
        room = len(placement.physical_to_logical) - experts + 1
        physical = torch.full((experts, room), -1, dtype=torch.int32, device=device)
        counts = torch.zeros(experts, dtype=torch.int64, device=device)
        made = cls(physical=physical, counts=counts)
        made.follow(placement)
        return made

    def follow(self, placement: Placement) -> None:
        """Describe another placement of as many slots, in place: graphs keep these tensors."""
        room = self.physical.shape[1]
        held = placement.logical_to_physical
        rows = [[*replicas, *[-1] * (room - len(replicas))] for replicas in held]
        self.physical.copy_(torch.tensor(rows, dtype=torch.int32))
        self.counts.copy_(torch.tensor([len(replicas) for replicas in held]))

    def route(self, routing: Routing) -> Routing:
        """Return the routing with the physical id of the chosen replica in place of each id.

        routing.topk_ids: [T, k] int32 logical ids. Those beyond the experts, of zero experts, stay
        beyond the physical ones: as without replicas, their tokens are no padding, whose values no
        scale over all tokens sees. -1 stays -1.
        """
        ids = routing.topk_ids
        experts = len(self.counts)
        is_held = (ids >= 0) & (ids < experts)
        others = torch.where(ids < experts, ids, ids + (self.slots - experts))
        safe = ids.where(is_held, 0).long()
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        place = (rows * STEP + safe * SHIFT) & CIRCLE
        replica = (place * self.counts[safe]) >> 32
        return replace(routing, topk_ids=self.physical[safe, replica].where(is_held, others))
