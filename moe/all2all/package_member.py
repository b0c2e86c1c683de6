"""Share what the all2all backends of released packages have in common.

Packages make a buffer for the largest number of tokens of any rank, all ranks together. Here each
size of a buffer, a power of two, is made once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moe.all2all.base import PrepareFinalize
from moe.all2all.group_ids import GroupIds
from moe.byte_views import as_bytes
from moe.errors import MoEError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor

    from moe.collectives import Group
    from moe.types import Routing


class PackageMember(PrepareFinalize):
    """Keep the buffers of a package, and the numbers that it has for experts."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self._opened: dict[Hashable, Any] = {}

    def opened(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` returned for this key. Collective for a key that is new.

        Raises MoEError on every rank if the group has no ranks with devices of their own.
        """
        if self.group.handle is None or self.group.staged:
            they = "share a device" if self.group.staged else "are alone"
            raise MoEError(
                f"{type(self).__name__} needs a group of ranks with a device each, and these {they}"
                ": use an all2all backend with collectives"
            )
        if key not in self._opened:
            self._opened[key] = make()
        return self._opened[key]

    def group_ids(self, device: torch.device) -> GroupIds:
        """Return the package's numbers of the experts of this group."""
        return GroupIds.of(self.experts_of, self.known_holders(device).shape[1], device)

    def held_here(self, topk_ids: Tensor) -> Tensor:
        """Return [T, k] bool, the slots whose expert this rank holds."""
        return self.held_by(topk_ids)[self.group.rank]


def room_for(counts: tuple[int, ...]) -> int:
    """Return the smallest power of two that is at least the tokens of each rank, and 1."""
    return int(1 << max(0, max(counts) - 1).bit_length())


def picked(x: Tensor, rows: Tensor) -> Tensor:
    """Return copies of some rows, also of a dtype that cannot be indexed."""
    return as_bytes(x)[rows].view(x.dtype)


def sent_weights(routing: Routing) -> Tensor:
    """Return [T, k] float32 router weights, zero where there is no expert."""
    return torch.where(routing.topk_ids >= 0, routing.topk_weights.float(), 0.0)
