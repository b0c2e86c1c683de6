"""Define the all2all backend of a single rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.all2all.base import PrepareFinalize
from moe.types import Activations, Dispatched, Routing

if TYPE_CHECKING:
    from torch import Tensor


class Local(PrepareFinalize):
    """Return tokens and outputs unchanged."""

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        return Dispatched(x=x, routing=routing, counts=(x.codes.shape[0],))

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        del dispatched
        return partial
