"""Compare two placements: what stays, and which weights have to be moved. Torch-free."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moe.errors import MoEError
from moe.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Move:
    """Say that the weights of one slot are copied to another. Ranks are EP ranks, slots local."""

    expert: int  # logical
    from_rank: int
    from_slot: int
    to_rank: int
    to_slots: tuple[int, ...]  # sent once, written to each of these

    @property
    def is_local(self) -> bool:
        """Return whether nothing is sent."""
        return self.from_rank == self.to_rank


def kept_in_place(before: Placement, wanted: Sequence[int]) -> Placement:
    """Return the placement `wanted` with the slots of each rank in another order, if that helps.

    An expert that a rank has already keeps its slot; nothing else changes.
    wanted: [P] the logical expert of each slot.
    """
    held: list[int] = []
    for ep_rank in range(len(before.counts)):
        span = before.physical_of(ep_rank)
        held += _kept(before.experts_of(ep_rank), wanted[span.start : span.stop])
    return Placement(
        num_experts=before.num_experts, physical_to_logical=tuple(held), counts=before.counts
    )


def rotated(placement: Placement) -> Placement:
    """Return the placement with each rank's experts on the next rank: loads are as even as before.

    Raises MoEError if ranks have different numbers of slots.
    """
    counts = placement.counts
    if len(set(counts)) > 1:
        raise MoEError(f"ranks with {counts} slots cannot take over each other's experts")
    held = placement.physical_to_logical
    return replace(placement, physical_to_logical=held[-counts[-1] :] + held[: -counts[-1]])


def without_rank(placement: Placement, lost: int) -> tuple[Placement, tuple[int, ...]]:
    """Return the placement of the ranks that are left, and the experts that must be loaded again.

    Every slot keeps its expert, but those of a replica too many: experts that only the lost rank
    had take them, most replicated ones first. lost: an EP rank. Raises MoEError if too few slots
    are left.
    """
    gone = placement.physical_of(lost)
    held = [e for p, e in enumerate(placement.physical_to_logical) if p not in gone]
    if len(held) < placement.num_experts:
        raise MoEError(
            f"without EP rank {lost} there are {len(held)} slots for {placement.num_experts} "
            "experts; each needs one at least: use more redundant ones"
        )
    missing = [e for e in range(placement.num_experts) if e not in held]
    for expert in missing:
        replicas = Counter(held)
        slot = max(range(len(held)), key=lambda slot: (replicas[held[slot]], slot))
        held[slot] = expert
    counts = tuple(count for rank, count in enumerate(placement.counts) if rank != lost)
    return replace(placement, physical_to_logical=tuple(held), counts=counts), tuple(missing)


def _kept(before: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Return the experts of a rank's slots: those that stay where they were, others around them."""
    missing = Counter(wanted)
    stays = []
    for expert in before:
        stays.append(missing[expert] > 0)
        missing[expert] -= stays[-1]
    new = iter(sorted((+missing).elements()))
    return [e if stay else next(new) for e, stay in zip(before, stays, strict=True)]


def moves(before: Placement, after: Placement) -> tuple[Move, ...]:
    """Return the moves that lead from one placement to another, ordered by where they go.

    A rank that has an expert copies it; otherwise one of its holders sends it, in turn. Raises
    MoEError for placements of other experts or slots, and for an expert that none holds.
    """
    _check(before, after)
    turns: Counter[int] = Counter()
    listed: list[Move] = []
    for ep_rank in range(len(after.counts)):
        old, new = before.experts_of(ep_rank), after.experts_of(ep_rank)
        slots_of: dict[int, list[int]] = {}
        for slot, expert in enumerate(new):
            if old[slot] != expert:
                slots_of.setdefault(expert, []).append(slot)
        for expert, slots in slots_of.items():
            source = ep_rank if expert in old else _next(before.owners(expert), turns, expert)
            listed.append(
                Move(
                    expert=expert,
                    from_rank=source,
                    from_slot=before.experts_of(source).index(expert),
                    to_rank=ep_rank,
                    to_slots=tuple(slots),
                )
            )
    return tuple(listed)


def _next(owners: Sequence[int], turns: Counter[int], expert: int) -> int:
    """Return the owner whose turn it is to send an expert."""
    turns[expert] += 1
    return owners[(turns[expert] - 1) % len(owners)]


def _check(before: Placement, after: Placement) -> None:
    if (before.num_experts, before.counts) != (after.num_experts, after.counts):
        raise MoEError(
            f"a placement of {after.num_experts} experts on slots {after.counts} cannot follow one "
            f"of {before.num_experts} on {before.counts}: both must be of the same layer"
        )
    for placement in (before, after):
        check_complete(placement)


def check_complete(placement: Placement) -> None:
    """Raise MoEError if a logical expert has no slot."""
    absent = set(range(placement.num_experts)) - set(placement.physical_to_logical)
    if absent:
        raise MoEError(
            f"expert {min(absent)} has no slot in physical_to_logical "
            f"{list(placement.physical_to_logical)}; each expert needs one at least"
        )
