"""Check that the layout and the placement assign each column, expert and token exactly once.

The reference shares `moe.layout` and `moe.placement` with the layer under test. A column, an expert
or a token that they lose would be missing from both results, so these checks do not rely on them.
Of the placement only the experts of each EP rank are used, not the map from which the layer reads
local ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moe.layout import Layout
    from moe.spec import LayerSpec


def holders(
    layer_spec: LayerSpec, e: int, owner: int = -1, rank: int = 0
) -> tuple[slice, list[range]]:
    """Return the ranks that hold a part of expert e, as a slice, and the columns of each.

    owner: the EP rank whose replica of the expert is meant; -1: the first, of an expert that has
    replicas. rank: one that has the tokens; others than those with which it shares all experts do
    not compute them. Raises ValueError if a column has no rank, or two, and for another owner.
    """
    layout, size = layer_spec.layout, layer_spec.intermediate
    owners = layer_spec.placement.owners(e)
    if layer_spec.is_balanced and owners:
        if owner not in (-1, *owners):
            raise ValueError(f"EP rank {owner} has no replica of expert {e}; {owners} have")
        owners = (owners[0] if owner < 0 else owner,)
    among = tokens_ranks(layout, rank)
    ranks = [r for r in among for owner in owners if layout.ep_rank(r) == owner]
    columns = [layout.intermediate_of(r, size) for r in ranks]
    if not _tile(columns, size):
        text = f"{size} columns of expert {e} {_assignment(ranks, columns)}"
        raise ValueError(f"the layout assigns {text}")
    return slice(ranks[0], ranks[-1] + 1), columns


def tokens_ranks(layout: Layout, rank: int) -> range:
    """Return the ranks that compute the tokens of a rank: the world, or its part of `expert_dp`.

    Parts are neighbours of equal size. Computed here, since the layout's own groups are judged.
    """
    size = layout.world_size // layout.expert_dp_size
    start = rank // size * size
    return range(start, start + size)


def first_holders(layer_spec: LayerSpec, rank: int = 0) -> tuple[tuple[int, ...], ...]:
    """Return the experts of each rank, each expert on the first EP rank with a replica of it only.

    rank: one that has the tokens; ranks that do not compute these have no expert here. Values do
    not depend on which replica computes them; sums must not have them twice.
    """
    if not layer_spec.is_balanced:
        among = tokens_ranks(layer_spec.layout, rank)
        held = enumerate(layer_spec.experts_by_rank)
        return tuple(experts if r in among else () for r, experts in held)
    placement, layout = layer_spec.placement, layer_spec.layout
    first = [placement.owners(e)[0] for e in range(placement.num_experts)]
    ranks = (layout.ep_rank(rank) for rank in range(layout.world_size))
    return tuple(tuple(e for e, owner in enumerate(first) if owner == rank) for rank in ranks)


def check_rank(layout: Layout, rank: int) -> None:
    """Raise ValueError unless `rank = (dp_rank * pcp_size + pcp_rank) * tp_size + tp_rank`.

    Each must be within its size.
    """
    known = range(layout.world_size)
    if rank not in known:
        raise ValueError(f"rank {rank} is not in this layout, which has ranks 0 to {known[-1]}")
    places = (
        ("DP", layout.dp_rank(rank), layout.dp_size),
        ("context", layout.pcp_rank(rank), layout.pcp_size),
        ("TP", layout.tp_rank(rank), layout.tp_size),
    )
    number = 0
    for _, place, size in places:
        number = number * size + place
    if number == rank and all(0 <= place < size for _, place, size in places):
        return
    texts = ", ".join(f"{name} rank {place} of {size}" for name, place, size in places)
    raise ValueError(
        f"the layout assigns rank {rank} the {texts}; rank = (DP rank * {layout.pcp_size} + context"
        f" rank) * {layout.tp_size} + TP rank must hold for ranks 0 to {known[-1]}"
    )


def check_tokens(layout: Layout, dp_rank: int, counts: tuple[int, ...]) -> None:
    """Raise ValueError unless each token of a DP rank is assigned to one of its context ranks.

    Under sequence parallelism one TP rank of that context rank must have it, otherwise each of
    them. counts: tokens per DP rank.
    """
    count, step = counts[dp_rank], 1 if layout.sequence_parallel else layout.tp_size
    ranks = layout.partition("replica")[dp_rank]
    parts = [layout.tokens_of(r, counts) for r in ranks]
    first = parts[::step]
    if not _tile(first, count) or parts != [part for part in first for _ in range(step)]:
        raise ValueError(f"the layout assigns {count} tokens {_assignment(ranks, parts)}")


def _tile(parts: Sequence[range], total: int) -> bool:
    """Return whether the parts, joined, are `range(total)`."""
    starts, stops = [part.start for part in parts], [part.stop for part in parts]
    return [*starts, total] == [0, *stops]


def _assignment(ranks: Sequence[int], parts: Sequence[range]) -> str:
    """Return which part each rank has, and the rule, as the end of a message."""
    pairs = zip(ranks, parts, strict=True)
    text = ", ".join(f"{part.start}:{part.stop} to rank {rank}" for rank, part in pairs)
    return f"as {text or 'none to any rank'}; each must be assigned once, in rank order"
