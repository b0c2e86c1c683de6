"""Define the base class of all2all backends: tokens to their experts, sums back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from moe.errors import MoEError

if TYPE_CHECKING:
    from torch import Tensor

    from moe.collectives import Group
    from moe.types import Activations, Dispatched, Routing


class PrepareFinalize(ABC):
    """Exchange the tokens of one layer on one rank. group: the ranks whose tokens differ.

    A member keeps nothing of a call: two calls may be under way at once, and what `finalize` needs
    travels in `Dispatched.state`.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        # [S, E] bool, whether the rank at a position of the group holds some of an expert; and
        # [S][e] the experts of each in the order of local ids. Set by `make_prepare_finalize`.
        self.holders: Tensor | None = None
        self.experts_of: tuple[tuple[int, ...], ...] = ()
        # Rows that an expert has room for in the format `batched`; None: for all tokens of a call.
        self.capacity: int | None = None

    @abstractmethod
    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        """Return the gathered tokens for this rank's experts. Collective.

        x: [T, K] this rank's tokens; T may be 0 and may differ between ranks. routing: global ids,
        with load balancing physical ids.
        """

    @abstractmethod
    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        """Return the sums over all ranks' experts of this rank's tokens, [T, K]. Collective.

        partial: [G, K] sums over this rank's experts, of the rows of `dispatched`.
        """

    def abandon(self, dispatched: Dispatched, columns: int, dtype: torch.dtype) -> None:
        """End a call for which this rank's experts have no sums, because they failed. Collective.

        The other ranks are in `finalize` or will be. They get NaN in the rows that needed an expert
        of this rank; without this call they would wait, or sum up what an earlier call had left. It
        gives back what `prepare` took, so that the next call finds all ranks alike.

        columns, dtype: K of the sums and the model dtype.
        """
        rows = dispatched.x.codes
        sums = rows.new_full((len(rows), columns), torch.nan, dtype=dtype)
        self.finalize(sums, dispatched)

    def held_by(self, topk_ids: Tensor) -> Tensor:
        """Return [S, T, k] bool: whether a rank of the group holds some of each slot's expert.

        topk_ids: [T, k] global ids; -1 and ids that are no routed expert's are held by none. Raises
        MoEError if nobody said which ranks hold what.
        """
        holders = self.known_holders(topk_ids.device)
        known = (topk_ids >= 0) & (topk_ids < holders.shape[1])
        return torch.where(known, holders[:, topk_ids.where(known, 0).long()], False)

    def known_holders(self, device: torch.device) -> Tensor:
        """Return `holders` on a device, where it stays: no CUDA graph can copy it from the host.

        Raises MoEError if nobody said which ranks hold what.
        """
        if self.holders is None:
            raise MoEError(
                f"{type(self).__name__} does not know which rank holds which expert: make it with "
                "moe.all2all.make.make_prepare_finalize"
            )
        if device.type == "meta":
            return self.holders.to(device)
        self.holders = self.holders.to(device)
        return self.holders


def zeroed_padding(partial: Tensor, routing: Routing) -> Tensor:
    """Return the sums [G, K] with zeros in padding rows, where they are undefined."""
    real = routing.topk_ids.amax(dim=1, keepdim=True) >= 0
    return torch.where(real, partial, 0.0).to(partial.dtype)
