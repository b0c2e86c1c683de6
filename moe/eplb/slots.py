"""Hold what a rebalance changes in the experts of one rank: weights, map of replicas, load.

The three change together, in `follow` and by a `Transfer`: a map that is older than the weights, or
newer, sends tokens to experts that have moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe.eplb.load import LoadWindow
from moe.eplb.replicas import ReplicaMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from moe.placement import Placement


@dataclass(kw_only=True, eq=False)
class Slots:
    """Hold the slots of one layer on one rank, and the placement that they have now.

    tensors: name -> [e, ...], what the experts backend reads of each slot, as it prepared it: moved
    as it is, so that no other layout than the backend's own is ever made again.
    """

    placement: Placement
    ep_rank: int
    tensors: Mapping[str, Tensor]
    replicas: ReplicaMap
    load: LoadWindow

    @classmethod
    def of(
        cls,
        placement: Placement,
        ep_rank: int,
        tensors: Mapping[str, Tensor],
        *,
        window: int,
        device: torch.device,
    ) -> Slots:
        """Return the slots before the first rebalance. window: calls whose loads are counted."""
        made = cls(
            placement=placement,
            ep_rank=ep_rank,
            tensors=tensors,
            replicas=ReplicaMap.of(placement, device),
            load=LoadWindow(placement.num_experts, window, device),
        )
        made.load.follow(placement, ep_rank)
        return made

    def follow(self, placement: Placement) -> None:
        """Go by another placement from the next call on; the weights must be there."""
        self.placement = placement
        self.replicas.follow(placement)
        self.load.follow(placement, self.ep_rank)
