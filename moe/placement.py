"""Which experts are where: the layer's logical experts, and the physical ones that ranks hold.

A physical expert is a place on a rank that holds the weights of one logical expert. Physical
experts are numbered through the EP ranks, one rank after another; a local id is an expert's place
on its rank. Today each logical expert is held once (`linear`). Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from moe.layout import chunk

if TYPE_CHECKING:
    from moe.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The logical expert behind each physical one. Raises ValueError where `counts` differ.

    physical_to_logical: by physical id. counts: how many physical experts each EP rank holds.
    Whether every logical expert is held once is for `moe.reference.ownership` to say.
    """

    num_experts: int  # logical
    physical_to_logical: tuple[int, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        physical = len(self.physical_to_logical)
        if sum(self.counts) != physical:
            raise ValueError(
                f"the EP ranks hold {self.counts} physical experts, and physical_to_logical names "
                f"{physical}; both must be as many"
            )
        unknown = sorted(set(self.physical_to_logical) - set(range(self.num_experts)))
        if unknown:
            raise ValueError(
                f"physical_to_logical names expert {unknown[0]}; logical experts are 0 to "
                f"{self.num_experts - 1}"
            )

    def physical_of(self, ep_rank: int) -> range:
        """Return the physical experts of an EP rank, in the order of their local ids."""
        stop = tuple(accumulate(self.counts))[ep_rank]
        return range(stop - self.counts[ep_rank], stop)

    def experts_of(self, ep_rank: int) -> tuple[int, ...]:
        """Return the logical experts of an EP rank, in the order of their local ids."""
        held = self.physical_of(ep_rank)
        return self.physical_to_logical[held.start : held.stop]

    def expert_map(self, ep_rank: int) -> tuple[int, ...]:
        """Return each logical expert's local id on an EP rank, -1 where it is not there."""
        local = {e: place for place, e in enumerate(self.experts_of(ep_rank))}
        return tuple(local.get(e, -1) for e in range(self.num_experts))

    def owners(self, expert: int) -> tuple[int, ...]:
        """Return the EP ranks that hold a logical expert, one for each of its replicas."""
        return self._owners[expert]

    @cached_property
    def _owners(self) -> tuple[tuple[int, ...], ...]:
        """By logical expert. The reference asks for all of them, in every call."""
        owners: list[list[int]] = [[] for _ in range(self.num_experts)]
        for ep_rank in range(len(self.counts)):
            for expert in self.experts_of(ep_rank):
                owners[expert].append(ep_rank)
        return tuple(map(tuple, owners))


@cache
def linear(layout: Layout, num_experts: int) -> Placement:
    """Return the placement of each expert once, in order; the first ranks hold one more."""
    ep_size = len(layout.group("ep", 0))
    shares = [chunk(num_experts, ep_size, ep_rank) for ep_rank in range(ep_size)]
    return Placement(
        num_experts=num_experts,
        physical_to_logical=tuple(range(num_experts)),
        counts=tuple(len(share) for share in shares),
    )
