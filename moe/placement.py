"""Map the logical experts of a layer to the physical experts that ranks hold. Torch-free.

A physical expert is a slot on a rank that holds the weights of one logical expert. Physical ids are
numbered across the EP ranks, one rank after another; a local id is the position on the rank.
An expert with several physical ones has replicas; a token that chose it goes to one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from moe.layout import chunk

if TYPE_CHECKING:
    from moe.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Hold the logical expert of each physical one.

    Raises ValueError if `counts` do not sum to the number of physical experts, or for an unknown
    logical expert. That every logical expert has a holder is checked by `moe.reference.ownership`.
    """

    num_experts: int  # logical experts
    physical_to_logical: tuple[int, ...]  # physical id -> logical id
    counts: tuple[int, ...]  # physical experts on each EP rank

    def __post_init__(self) -> None:
        physical = len(self.physical_to_logical)
        if sum(self.counts) != physical:
            raise ValueError(
                f"the EP ranks hold {self.counts} physical experts, but physical_to_logical has "
                f"{physical} entries; it must have as many entries as the sum of counts"
            )
        unknown = sorted(set(self.physical_to_logical) - set(range(self.num_experts)))
        if unknown:
            raise ValueError(
                f"physical_to_logical contains expert {unknown[0]}; ids must be from 0 to "
                f"{self.num_experts - 1}"
            )

    def physical_of(self, ep_rank: int) -> range:
        """Return the physical ids on an EP rank, in the order of local ids."""
        stop = tuple(accumulate(self.counts))[ep_rank]
        return range(stop - self.counts[ep_rank], stop)

    def experts_of(self, ep_rank: int) -> tuple[int, ...]:
        """Return the logical experts on an EP rank, in the order of local ids."""
        physical = self.physical_of(ep_rank)
        return self.physical_to_logical[physical.start : physical.stop]

    def expert_map(self, ep_rank: int) -> tuple[int, ...]:
        """Return the local id of each logical expert on an EP rank; -1 = not on that rank."""
        local = {e: index for index, e in enumerate(self.experts_of(ep_rank))}
        return tuple(local.get(e, -1) for e in range(self.num_experts))

    def local_ids(self, ep_rank: int) -> tuple[int, ...]:
        """Return the local id of each physical expert on an EP rank; -1 = on another."""
        held = self.physical_of(ep_rank)
        return tuple(p - held.start if p in held else -1 for p in range(sum(self.counts)))

    def replicas_of(self, expert: int) -> tuple[int, ...]:
        """Return the physical ids that hold a logical expert, ascending."""
        return self.logical_to_physical[expert]

    @cached_property
    def logical_to_physical(self) -> tuple[tuple[int, ...], ...]:
        """Return `replicas_of` every logical expert."""
        replicas: list[list[int]] = [[] for _ in range(self.num_experts)]
        for physical, expert in enumerate(self.physical_to_logical):
            replicas[expert].append(physical)
        return tuple(map(tuple, replicas))

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Return the EP rank of each physical expert."""
        return tuple(rank for rank, count in enumerate(self.counts) for _ in range(count))

    def owners(self, expert: int) -> tuple[int, ...]:
        """Return the EP ranks that hold a logical expert, one entry per replica."""
        return self._owners[expert]

    @cached_property
    def _owners(self) -> tuple[tuple[int, ...], ...]:
        """Return `owners` of every logical expert; cached, since each reference call reads it."""
        owners: list[list[int]] = [[] for _ in range(self.num_experts)]
        for ep_rank in range(len(self.counts)):
            for expert in self.experts_of(ep_rank):
                owners[expert].append(ep_rank)
        return tuple(map(tuple, owners))


@cache
def linear(layout: Layout, num_experts: int) -> Placement:
    """Return the placement with one physical expert per logical one, in order.

    Numbers of experts differ by at most one between ranks; the first ranks hold more.
    """
    ep_size = len(layout.group("ep", 0))
    shares = [chunk(num_experts, ep_size, ep_rank) for ep_rank in range(ep_size)]
    return Placement(
        num_experts=num_experts,
        physical_to_logical=tuple(range(num_experts)),
        counts=tuple(len(share) for share in shares),
    )


@cache
def initial(layout: Layout, num_experts: int, redundant: int) -> Placement:
    """Return the placement before the first rebalance: each expert in order, then replicas.

    Redundant slot i holds expert `i % num_experts`. Numbers of slots differ by at most one.
    """
    if redundant == 0:
        return linear(layout, num_experts)
    slots = linear(layout, num_experts + redundant)
    held = tuple(slot % num_experts for slot in slots.physical_to_logical)
    return replace(slots, num_experts=num_experts, physical_to_logical=held)


@cache
def placed(layout: Layout, num_experts: int, physical_to_logical: tuple[int, ...]) -> Placement:
    """Return the placement that this map describes, on slots that are spread as by `linear`."""
    slots = linear(layout, len(physical_to_logical))
    return replace(slots, num_experts=num_experts, physical_to_logical=physical_to_logical)
