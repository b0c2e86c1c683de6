"""What an all2all backend is: tokens to where their experts are, and the sums back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from moe.collectives import Group
    from moe.types import Activations, Dispatched, Routing


class PrepareFinalize(ABC):
    """One per layer and rank; `group` holds the ranks whose tokens differ."""

    def __init__(self, group: Group) -> None:
        self.group = group

    @abstractmethod
    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        """Collective. x: [T, K] this rank's tokens (T may be 0 and may differ between ranks)."""

    @abstractmethod
    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        """Collective. partial: [G, K] sums over this rank's experts -> [T, K] over the group's."""
