"""Make all2all backends: the one place where their classes are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.all2all import ALL2ALL
from moe.all2all.sizes import check_capacity
from moe.errors import MoEError

if TYPE_CHECKING:
    from moe.all2all.base import PrepareFinalize
    from moe.collectives import Group
    from moe.spec import LayerSpec


def make_prepare_finalize(
    name: str, layer_spec: LayerSpec, rank: int, group: Group, *, capacity: int | None = None
) -> PrepareFinalize:
    """Return the all2all backend of this name for one rank, which knows who holds which expert.

    group: this rank's group `gather` of the layout. capacity: rows that each expert has room for,
    for a backend in the dispatch format `batched`; None: as the layer says, and if it says nothing,
    for all tokens of a call. Raises MoEError for a group of another size than the layout's, and for
    a capacity below 1 if the rank is alone. Otherwise `prepare` raises it, on every rank: one that
    ended here would leave the others waiting.
    """
    if capacity is None and layer_spec.capacity:
        capacity = layer_spec.capacity
    if group.size == 1:
        check_capacity(capacity)  # with other ranks `prepare` does, after all have told theirs
    ranks = layer_spec.layout.group("gather", rank)
    if len(ranks) != group.size:
        raise MoEError(
            f"the group has {group.size} rank(s), and the layout gathers over {len(ranks)}, ranks "
            f"{', '.join(map(str, ranks))}: pass the group `gather` of make_groups"
        )
    member: PrepareFinalize = ALL2ALL.load(name)(group)
    member.experts_of = tuple(_ids_of(layer_spec, r) for r in ranks)
    member.holders = holders_of(member.experts_of, _ids(layer_spec))
    member.capacity = capacity
    return member


def _ids_of(layer_spec: LayerSpec, rank: int) -> tuple[int, ...]:
    """Return the ids by which tokens reach a rank: of its experts, or, with load balancing, of its
    physical experts, which are always the same.
    """
    if not layer_spec.is_balanced:
        return layer_spec.experts_of(rank)
    return tuple(layer_spec.placement.physical_of(layer_spec.layout.ep_rank(rank)))


def _ids(layer_spec: LayerSpec) -> int:
    """Return how many such ids there are."""
    placement, held = layer_spec.placement, layer_spec.held_experts
    return len(placement.physical_to_logical) if layer_spec.is_balanced else held


def holders_of(experts_of: tuple[tuple[int, ...], ...], num_experts: int) -> torch.Tensor:
    """Return [S, E] bool, whether rank i of S holds some of expert e. experts_of: of each rank."""
    holders = torch.zeros((len(experts_of), num_experts), dtype=torch.bool)
    for i, experts in enumerate(experts_of):
        holders[i, list(experts)] = True
    return holders
