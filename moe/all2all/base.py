"""Define the base class of all2all backends: tokens to their experts, sums back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from moe.collectives import Group
    from moe.types import Activations, Dispatched, Routing


class PrepareFinalize(ABC):
    """Exchange the tokens of one layer on one rank. group: the ranks whose tokens differ."""

    def __init__(self, group: Group) -> None:
        self.group = group

    @abstractmethod
    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        """Return the gathered tokens for this rank's experts. Collective.

        x: [T, K] this rank's tokens; T may be 0 and may differ between ranks. routing: global ids.
        """

    @abstractmethod
    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        """Return the sums over all ranks' experts of this rank's tokens, [T, K]. Collective.

        partial: [G, K] sums over this rank's experts, of the rows of `dispatched`.
        """
