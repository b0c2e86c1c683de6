"""Define how ranks share the work: named groups of ranks, and what each rank holds. Torch-free.

Only `_world` and `_partitions` combine sizes; all other code asks for the ranks of a group by its
name in `GROUPS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Ranks = tuple[int, ...]
Partition = tuple[Ranks, ...]  # groups; each rank of the world is in exactly one of them

GROUPS = {
    "dp": "ranks with the same position in their TP group, one for each DP rank",
    "pcp": "the context ranks of one DP rank: those with the same position in their TP group",
    "tp": "the ranks of one context rank",
    "replica": "all ranks of one DP rank",
    "experts": "ranks that hold every expert once, together: all, or each part of expert_dp",
    "expert_dp": "ranks that hold the same part of the same experts, for different tokens",
    "ep": "ranks over which experts are spread",
    "moe_tp": "ranks over which each expert's intermediate size is split",
    "tokens": "ranks over which one DP rank's tokens are split (context and sequence parallelism)",
    "gather": "ranks that hold different tokens and contribute to each other's sums",
}


def chunk(total: int, parts: int, index: int) -> range:
    """Return the `index`-th of `parts` contiguous pieces of `range(total)`.

    Sizes differ by at most one, longer pieces first; pieces are empty if parts exceed total.
    """
    base, extra = divmod(total, parts)
    start = index * base + min(index, extra)
    return range(start, start + base + (index < extra))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Describe how ranks share the work.

    `rank = (dp_rank * pcp_size + pcp_rank) * tp_size + tp_rank`, and with `use_ep` also
    `rank = ep_rank * moe_tp_size + moe_tp_rank`: ranks that share an expert are neighbours.
    """

    dp_size: int = 1
    tp_size: int = 1
    use_ep: bool = False  # True: experts are spread over ranks; False: only the intermediate size
    sequence_parallel: bool = False  # split each DP rank's tokens over its TP ranks, too
    pcp_size: int = 1  # context ranks, over which each DP rank's tokens are split
    # With `use_ep`, the ranks over which each expert is split; must divide the world. Without, an
    # expert is split over all ranks, and this must be 1.
    moe_tp_size: int = 1
    # With `use_ep`, the parts of the world that each hold all experts, for the tokens of their own
    # DP ranks; must divide these.
    expert_dp_size: int = 1

    @property
    def world_size(self) -> int:
        """Return the number of ranks."""
        return self.dp_size * self.pcp_size * self.tp_size

    def size(self, name: str) -> int:
        """Return the number of ranks in each group called `name`."""
        return len(self.partition(name)[0])

    def partition(self, name: str) -> Partition:
        """Return every group called `name`. Raises KeyError for a name not in `GROUPS`."""
        return _partitions(self)[name]

    def group(self, name: str, rank: int) -> Ranks:
        """Return the ranks of the group called `name` that `rank` is in, ascending."""
        return _places(self)[name][rank][0]

    def position(self, name: str, rank: int) -> int:
        """Return the position of `rank` within its group called `name`."""
        return _places(self)[name][rank][1]

    def dp_rank(self, rank: int) -> int:
        """Return the position of `rank` in its group `dp`."""
        return self.position("dp", rank)

    def tp_rank(self, rank: int) -> int:
        """Return the position of `rank` in its group `tp`."""
        return self.position("tp", rank)

    def pcp_rank(self, rank: int) -> int:
        """Return the position of `rank` in its group `pcp`."""
        return self.position("pcp", rank)

    def ep_rank(self, rank: int) -> int:
        """Return the position of `rank` in its group `ep`."""
        return self.position("ep", rank)

    def intermediate_of(self, rank: int, intermediate: int) -> range:
        """Return the columns of the intermediate size that `rank` holds."""
        return self._share("moe_tp", rank, intermediate)

    def shard_sizes(self, intermediate: int) -> tuple[int, ...]:
        """Return how many columns of the intermediate size each rank holds."""
        return _shard_sizes(self, intermediate)

    def tokens_of(self, rank: int, counts: tuple[int, ...]) -> range:
        """Return the rows of its DP rank's tokens that `rank` holds. counts: tokens per DP rank."""
        return self._share("tokens", rank, counts[self.dp_rank(rank)])

    def same_tokens(self, rank: int) -> Ranks:
        """Return the ranks that hold the same tokens as `rank`, including `rank`."""
        return (rank,) if self.sequence_parallel else self.group("tp", rank)

    def _share(self, name: str, rank: int, total: int) -> range:
        """Return the chunk of `range(total)` that falls to `rank` in its group called `name`."""
        group, position = _places(self)[name][rank]
        return chunk(total, len(group), position)


@cache
def _world(layout: Layout) -> Ranks:
    return tuple(range(layout.dp_size * layout.pcp_size * layout.tp_size))


@cache
def _partitions(layout: Layout) -> Mapping[str, Partition]:
    """Return the groups of a layout by their names in GROUPS.

    Raises ValueError if `expert_dp_size` does not divide the world, or `moe_tp_size` a part of it
    (`moe.layer_needs` refuses these).
    """
    pcp, tp = layout.pcp_size, layout.tp_size
    world = _world(layout)
    replicas = _neighbours(world, pcp * tp)
    by_tp = _neighbours(world, tp)
    by_pcp = tuple(ranks[t::tp] for ranks in replicas for t in range(tp))
    parts = _parts(world, layout.expert_dp_size)
    size = layout.moe_tp_size if layout.use_ep else len(world)
    by_moe_tp = [_neighbours(part, size) for part in parts]
    is_split = layout.sequence_parallel
    return {
        "dp": tuple(world[i :: pcp * tp] for i in range(pcp * tp)),
        "pcp": by_pcp,
        "tp": by_tp,
        "replica": replicas,
        "experts": parts,
        "expert_dp": tuple(zip(*parts, strict=True)),
        "ep": tuple(ranks for of_part in by_moe_tp for ranks in zip(*of_part, strict=True)),
        "moe_tp": tuple(ranks for of_part in by_moe_tp for ranks in of_part),
        "tokens": replicas if is_split else by_pcp,
        "gather": parts if is_split else tuple(part[t::tp] for part in parts for t in range(tp)),
    }


def _parts(world: Ranks, count: int) -> Partition:
    """Return the ranks in `count` groups. Raises ValueError if they do not divide the ranks."""
    if len(world) % count:
        raise ValueError(f"{count} groups do not divide a world of {len(world)}")
    return _neighbours(world, len(world) // count)


def _neighbours(world: Ranks, size: int) -> Partition:
    """Return the ranks in groups of this size. Raises ValueError if it does not divide them."""
    if len(world) % size:
        raise ValueError(f"groups of {size} rank(s) do not divide a world of {len(world)}")
    return tuple(world[start : start + size] for start in range(0, len(world), size))


@cache
def _places(layout: Layout) -> Mapping[str, Mapping[int, tuple[Ranks, int]]]:
    """Return name -> rank -> (its group, its position there); cached, since plans use it often."""
    return {
        name: {rank: (group, index) for group in groups for index, rank in enumerate(group)}
        for name, groups in _partitions(layout).items()
    }


@lru_cache(maxsize=1 << 12)
def _shard_sizes(layout: Layout, intermediate: int) -> tuple[int, ...]:
    """Return `Layout.shard_sizes`; plans of many layers ask for it often."""
    world = range(layout.world_size)
    return tuple(len(layout.intermediate_of(rank, intermediate)) for rank in world)
