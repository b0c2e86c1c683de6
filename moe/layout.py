"""How ranks share the work: named groups, and what each rank holds.

`GROUPS` is the one place that knows how `dp_size` and `tp_size` make up a world; whatever else asks
for the ranks of a group by its name. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Ranks = tuple[int, ...]
Partition = tuple[Ranks, ...]  # every rank of the world is in one of them

GROUPS = {
    "dp": "ranks with the same place in their TP group, one for each DP rank",
    "tp": "the ranks of one DP rank",
    "ep": "ranks over which experts are spread",
    "moe_tp": "ranks over which each expert's intermediate size is split",
    "tokens": "ranks over which one DP rank's tokens are split (sequence parallelism)",
    "gather": "ranks that hold different tokens and whose partial sums belong together",
}


def chunk(total: int, parts: int, index: int) -> range:
    """The `index`-th of `parts` contiguous pieces of `range(total)`; the first ones are longer.

    Sizes differ by at most one; a piece is empty where there are more parts than items.
    """
    base, extra = divmod(total, parts)
    start = index * base + min(index, extra)
    return range(start, start + base + (index < extra))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How ranks share the work. `rank = dp_rank * tp_size + tp_rank`."""

    dp_size: int = 1
    tp_size: int = 1
    use_ep: bool = False  # experts spread over all ranks; without it the intermediate size is
    sequence_parallel: bool = False  # each DP rank's tokens are split over its TP ranks

    @property
    def world_size(self) -> int:
        return len(_places(self)["tp"])

    def partition(self, name: str) -> Partition:
        """Every group called `name`. Raises KeyError for a name that is not in `GROUPS`."""
        return _partitions(self)[name]

    def group(self, name: str, rank: int) -> Ranks:
        """The ranks of `rank`'s group called `name`, in order."""
        return _places(self)[name][rank][0]

    def position(self, name: str, rank: int) -> int:
        """The place of `rank` in its group called `name`."""
        return _places(self)[name][rank][1]

    def dp_rank(self, rank: int) -> int:
        return self.position("dp", rank)

    def tp_rank(self, rank: int) -> int:
        return self.position("tp", rank)

    def ep_rank(self, rank: int) -> int:
        return self.position("ep", rank)

    def intermediate_of(self, rank: int, intermediate: int) -> range:
        """Columns of the intermediate size that live on `rank`."""
        return self._share("moe_tp", rank, intermediate)

    def tokens_of(self, rank: int, counts: tuple[int, ...]) -> range:
        """Rows of its DP rank's tokens that `rank` holds; `counts` are tokens per DP rank."""
        return self._share("tokens", rank, counts[self.dp_rank(rank)])

    def same_tokens(self, rank: int) -> Ranks:
        """The ranks that hold the same tokens as `rank`, itself among them."""
        return (rank,) if self.sequence_parallel else self.group("tp", rank)

    def _share(self, name: str, rank: int, total: int) -> range:
        group, position = _places(self)[name][rank]
        return chunk(total, len(group), position)


@cache
def _partitions(layout: Layout) -> Mapping[str, Partition]:
    """Every group of GROUPS by its name."""
    dp, tp = layout.dp_size, layout.tp_size
    world = tuple(range(dp * tp))
    alone = tuple((rank,) for rank in world)
    by_dp = tuple(world[t::tp] for t in range(tp))
    by_tp = tuple(world[d * tp : (d + 1) * tp] for d in range(dp))
    return {
        "dp": by_dp,
        "tp": by_tp,
        "ep": (world,) if layout.use_ep else alone,
        "moe_tp": alone if layout.use_ep else (world,),
        "tokens": by_tp if layout.sequence_parallel else alone,
        "gather": (world,) if layout.sequence_parallel else by_dp,
    }


@cache
def _places(layout: Layout) -> Mapping[str, Mapping[int, tuple[Ranks, int]]]:
    """By name and rank: the rank's group, and its place there. A plan asks for it at each point."""
    return {
        name: {rank: (group, place) for group in groups for place, rank in enumerate(group)}
        for name, groups in _partitions(layout).items()
    }
