"""Which ranks hold what, by the layout and the placement, and that it is all held once.

They are what the reference shares with what it judges: a column, an expert or a token that they
lose would be missed by both, so it is looked at here. Of the placement it takes which expert is on
which EP rank, and never the map that the layer looks ids up in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moe.layout import Layout
    from moe.spec import Problem


def holders(problem: Problem, e: int) -> tuple[slice, list[range]]:
    """The ranks (one, or all) that hold a part of expert e, and the columns of each.

    Raises ValueError where some of its columns are no rank's, or two ranks'.
    """
    layout, size = problem.layout, problem.intermediate
    owners = problem.placement.owners(e)
    ranks = [r for r in range(layout.world_size) for owner in owners if layout.ep_rank(r) == owner]
    columns = [layout.intermediate_of(r, size) for r in ranks]
    if not _tile(columns, size):
        raise ValueError(f"the layout gives {size} columns of expert {e} {_said(ranks, columns)}")
    return slice(ranks[0], ranks[-1] + 1), columns


def check_rank(layout: Layout, rank: int) -> None:
    """Raises ValueError where a rank is not where the layout says that it is."""
    known = range(layout.world_size)
    if rank not in known:
        raise ValueError(f"rank {rank} is not of this layout, which has ranks 0 to {known[-1]}")
    dp_rank, tp_rank = layout.dp_rank(rank), layout.tp_rank(rank)
    within = 0 <= dp_rank < layout.dp_size and 0 <= tp_rank < layout.tp_size
    if not within or dp_rank * layout.tp_size + tp_rank != rank:
        raise ValueError(
            f"the layout gives rank {rank} the DP rank {dp_rank} of {layout.dp_size} and the TP "
            f"rank {tp_rank} of {layout.tp_size}; rank = DP rank * {layout.tp_size} + TP rank must "
            f"hold for ranks 0 to {layout.world_size - 1}"
        )


def check_tokens(layout: Layout, dp_rank: int, counts: tuple[int, ...]) -> None:
    """Raises ValueError where some of a DP rank's tokens are no TP rank's, or two ranks'.

    counts: tokens of each DP rank. Without sequence parallelism each TP rank has all of them.
    """
    count = counts[dp_rank]
    ranks = layout.partition("tp")[dp_rank]
    parts = [layout.tokens_of(r, counts) for r in ranks]
    right = (
        _tile(parts, count) if layout.sequence_parallel else parts == [range(count)] * len(parts)
    )
    if not right:
        raise ValueError(f"the layout gives {count} tokens {_said(ranks, parts)}")


def _tile(parts: Sequence[range], total: int) -> bool:
    """Whether the parts are `range(total)`, each number once and in order."""
    starts, stops = [part.start for part in parts], [part.stop for part in parts]
    return [*starts, total] == [0, *stops]


def _said(ranks: Sequence[int], parts: Sequence[range]) -> str:
    each = ", ".join(f"{p.start}:{p.stop} to rank {r}" for r, p in zip(ranks, parts, strict=True))
    return f"as {each or 'nothing to anybody'}; each must be held once, in the order of the ranks"
