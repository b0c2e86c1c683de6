"""Decide which logical expert each physical expert holds, from the experts' loads. Torch-free.

This is the published algorithm of DeepSeek's expert-parallel load balancer, in three steps:

1. Pack groups of experts to nodes, so that nodes have nearly equal loads.
2. On each node, replicate the expert whose replicas have the largest load, one slot at a time.
3. On each node, pack the replicas to its ranks.

The policy `global` is the same with one node and one group. Equal loads are taken in the order of
their ids, so that every rank comes to the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from moe.errors import MoEError

if TYPE_CHECKING:
    from collections.abc import Sequence

Load = int | float | Fraction


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Say where experts can be. Raises MoEError for numbers that do not divide each other.

    slots: physical experts of all ranks. groups: of logical experts; those of a group are kept on
    one node. nodes, ranks: of the cluster; each node has as many ranks as the others.
    """

    slots: int
    ranks: int
    nodes: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise MoEError(f"{name} is {value}; it must be at least 1")
        for big, small in (("slots", "ranks"), ("ranks", "nodes"), ("groups", "nodes")):
            total, parts = getattr(self, big), getattr(self, small)
            if total % parts:
                raise MoEError(
                    f"{total} {big} do not divide into {parts} {small}; choose a multiple of it"
                )


def balanced(loads: Sequence[Load], cluster: Cluster) -> tuple[int, ...]:
    """Return the logical expert of each slot, [slots]; the slots of a rank lie together.

    loads: [E] tokens of each logical expert. Raises MoEError if the experts are more than the slots
    or do not divide into the groups, and for a load that is negative or not a number.
    """
    _check(loads, cluster)
    on_node = _experts_of_nodes([Fraction(load) for load in loads], cluster)
    slots = cluster.slots // cluster.nodes
    return tuple(
        experts[place]
        for experts in on_node
        for place in _slots_of_node([Fraction(loads[e]) for e in experts], slots, cluster)
    )


def _check(loads: Sequence[Load], cluster: Cluster) -> None:
    for e, load in enumerate(loads):
        if not 0 <= load < float("inf"):
            raise MoEError(f"the load of expert {e} is {load}; it must be a number from 0 on")
    if len(loads) > cluster.slots:
        raise MoEError(
            f"{len(loads)} experts have only {cluster.slots} slots; each needs one at least"
        )
    if len(loads) % cluster.groups:
        raise MoEError(
            f"{len(loads)} experts do not divide into {cluster.groups} groups of equal size"
        )


def _experts_of_nodes(loads: Sequence[Fraction], cluster: Cluster) -> list[list[int]]:
    """Return the logical experts of each node, group by group."""
    size = len(loads) // cluster.groups
    of_group = [range(g * size, (g + 1) * size) for g in range(cluster.groups)]
    sums = [sum((loads[e] for e in experts), Fraction(0)) for experts in of_group]
    return [[e for g in groups for e in of_group[g]] for groups in packed(sums, cluster.nodes)]


def _slots_of_node(loads: Sequence[Fraction], slots: int, cluster: Cluster) -> list[int]:
    """Return which of a node's experts each of its slots holds."""
    held = replicated(loads, slots)
    counts = [held.count(e) for e in range(len(loads))]
    shares = [loads[e] / counts[e] for e in held]
    by_rank = packed(shares, cluster.ranks // cluster.nodes)
    return [held[slot] for of_rank in by_rank for slot in of_rank]


def replicated(loads: Sequence[Fraction], slots: int) -> list[int]:
    """Return which expert each slot holds: first each expert once, then replicas.

    A further slot goes to the expert with the largest load per replica, the first one of equals.
    """
    held, counts = list(range(len(loads))), [1] * len(loads)
    for _ in range(slots - len(loads)):
        heaviest = max(range(len(loads)), key=lambda e: (loads[e] / counts[e], -e))
        held.append(heaviest)
        counts[heaviest] += 1
    return held


def packed(loads: Sequence[Fraction], packs: int) -> list[list[int]]:
    """Return the items of each pack: as many in each, with sums that differ little.

    The heaviest item left goes to the lightest pack that has room; the first one of equals. One
    item for each pack is left in order.
    """
    size = len(loads) // packs
    if size == 1:
        return [[item] for item in range(packs)]
    contents: list[list[int]] = [[] for _ in range(packs)]
    sums = [Fraction(0)] * packs
    for item in sorted(range(len(loads)), key=lambda item: (-loads[item], item)):
        room = [pack for pack in range(packs) if len(contents[pack]) < size]
        lightest = min(room, key=lambda pack: (sums[pack], pack))
        contents[lightest].append(item)
        sums[lightest] += loads[item]
    return contents
