"""Make all2all backends: the one place where their classes are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.all2all import ALL2ALL
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
    for all tokens of a call. Raises MoEError for a capacity below 1 and for a group of another size
    than the layout's.
    """
    if capacity is None and layer_spec.capacity:
        capacity = layer_spec.capacity
    if capacity is not None and capacity < 1:
        raise MoEError(
            f"capacity is {capacity}: no expert has room for a row; pass at least 1, or None for "
            "room for all tokens"
        )
    ranks = layer_spec.layout.group("gather", rank)
    if len(ranks) != group.size:
        raise MoEError(
            f"the group has {group.size} rank(s), and the layout gathers over {len(ranks)}, ranks "
            f"{', '.join(map(str, ranks))}: pass the group `gather` of make_groups"
        )
    member: PrepareFinalize = ALL2ALL.load(name)(group)
    member.experts_of = tuple(layer_spec.experts_of(r) for r in ranks)
    member.holders = holders_of(member.experts_of, layer_spec.held_experts)
    member.capacity = capacity
    return member


def holders_of(experts_of: tuple[tuple[int, ...], ...], num_experts: int) -> torch.Tensor:
    """Return [S, E] bool, whether rank i of S holds some of expert e. experts_of: of each rank."""
    holders = torch.zeros((len(experts_of), num_experts), dtype=torch.bool)
    for i, experts in enumerate(experts_of):
        holders[i, list(experts)] = True
    return holders
