"""Rebalance the layers of one rank: loads, a new placement, the transfer, the switch.

All ranks of the EP group call the same methods in the same order. A layer is rebalanced at once
(`rebalance`), or in two steps between which calls go on (`start`, `finish`); several layers one
after the other (`rebalance_next`), so that no call waits for the weights of all of them.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from moe.eplb.balance import Cluster, balanced
from moe.eplb.difference import kept_in_place, moves
from moe.eplb.exchange import Transfer, check_listed
from moe.errors import MoEError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moe.collectives import Group
    from moe.eplb.slots import Slots
    from moe.placement import Placement
    from moe.spec import LayerSpec


def cluster_of(layer_spec: LayerSpec) -> Cluster:
    """Return where a layer's experts can be: a node for each DP rank, if groups are kept on one."""
    layout = layer_spec.layout
    ranks, slots = len(layout.group("ep", 0)), len(layer_spec.placement.physical_to_logical)
    if layer_spec.eplb != "hierarchical":
        return Cluster(slots=slots, ranks=ranks)
    nodes, groups = layout.dp_size, layer_spec.router_groups
    return Cluster(slots=slots, ranks=ranks, nodes=nodes, groups=groups)


class Balancer:
    """Rebalance some layers, all of one cluster. group: the ranks of the EP group.

    Its messages must not mix with those of calls that go on: it needs a group of its own. Raises
    MoEError if an experts backend does not list its tensors by expert.
    """

    def __init__(self, layers: Sequence[Slots], cluster: Cluster, group: Group) -> None:
        self._layers, self._cluster, self._group = layers, cluster, group
        self._running: dict[int, tuple[Placement, Transfer]] = {}
        self._next = 0
        self.sent_bytes = 0  # by this rank, in all transfers
        for number, slots in enumerate(layers):
            count = slots.placement.counts[slots.ep_rank]
            check_listed(slots.tensors, count, f"layer {number}")

    def wanted(self, layer: int) -> Placement:
        """Return the placement that fits the loads of the last calls. Collective.

        It is the present one if no other has a smaller largest load of a rank.
        """
        slots = self._layers[layer]
        loads = slots.load.total(self._group)
        balanced_experts = balanced(loads, self._cluster)
        after = kept_in_place(slots.placement, balanced_experts)
        return (
            after
            if largest_load(after, loads) < largest_load(slots.placement, loads)
            else (slots.placement)
        )

    def rebalance(self, layer: int | None = None) -> None:
        """Move a layer, or all of them, to where their loads want them. Collective."""
        numbers = range(len(self._layers)) if layer is None else [layer]
        for number in numbers:
            self.start(number, self.wanted(number))
        for number in numbers:
            self.finish(number)

    def rebalance_next(self) -> int:
        """Move the next layer, in turn, and return its number. Collective."""
        number = self._next
        self._next = (number + 1) % len(self._layers)
        self.rebalance(number)
        return number

    def start(self, layer: int, placement: Placement) -> None:
        """Begin to move a layer; it stays where it is until `finish`. Collective.

        Raises MoEError if it is being moved already, and for a placement that is not of this layer;
        on every rank if ranks were given different ones, which would wait for each other.
        """
        if layer in self._running:
            raise MoEError(f"layer {layer} is being moved already; finish that first")
        slots = self._layers[layer]
        self._check_same(placement, slots)
        transfer = Transfer(slots.tensors, moves(slots.placement, placement), self._group)
        transfer.start()
        self._running[layer] = placement, transfer

    def _check_same(self, placement: Placement, slots: Slots) -> None:
        number = zlib.crc32(repr((placement.physical_to_logical, placement.counts)).encode())
        rows = self._group.gather_rows((number,), slots.replicas.physical.device)
        if len(set(rows)) > 1:
            texts = ", ".join(str(row[0]) for row in rows)
            raise MoEError(
                f"the EP ranks were given different placements (checksums {texts} in rank order); "
                "compute it from the loads of all ranks, as `wanted` does, or send it to all"
            )

    def finish(self, layer: int) -> None:
        """Wait for a layer's weights, write them, and go by the new placement. Collective.

        Raises MoEError if it is not being moved.
        """
        if layer not in self._running:
            raise MoEError(f"layer {layer} is not being moved; start that first")
        placement, transfer = self._running.pop(layer)
        transfer.finish()
        self.sent_bytes += transfer.sent_bytes
        self._layers[layer].follow(placement)


def largest_load(placement: Placement, loads: Sequence[float]) -> float:
    """Return the largest load of a rank, if each expert's load is shared by its replicas."""
    shares = [load / len(placement.replicas_of(e)) for e, load in enumerate(loads)]
    ranks = range(len(placement.counts))
    return max(sum(shares[e] for e in placement.experts_of(rank)) for rank in ranks)
