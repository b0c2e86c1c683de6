"""All2alls from outside: right ones that gather in ways of their own, and two that are wrong."""

from __future__ import annotations

import dataclasses

import torch

from moe.all2all.allgather_reducescatter import AllGatherReduceScatter
from moe.spec import Row
from moe.types import Routing


def each(dispatched, change):
    """Dispatched with each tensor that has a row for each token changed; fp8 as bytes."""

    def changed(t):
        bits = t.view(torch.uint8) if t.element_size() == 1 else t
        return change(bits).view(t.dtype)

    x, routing = dispatched.x, dispatched.routing
    scale = x.scale if not x.format.has_row_scales else changed(x.scale)
    ids, weights = changed(routing.topk_ids), changed(routing.topk_weights)
    return dataclasses.replace(
        dispatched,
        x=x.replace(codes=changed(x.codes), scale=scale),
        routing=Routing(topk_ids=ids, topk_weights=weights),
    )


class OwnRowsFirst(AllGatherReduceScatter):
    """Each rank has its own rows first, then those of the ranks after it, around in a ring."""

    row = Row(
        name="own_first",
        target="tests.harness.checks.stage_members:OwnRowsFirst",
        deterministic=True,
    )

    def prepare(self, x, routing):
        return self.turned(super().prepare(x, routing), -1)

    def turned(self, dispatched, way):
        return each(dispatched, lambda t: self.moved(t, way))

    def moved(self, t, way):
        return t.roll(way * len(t) // self.group.size * self.group.rank, 0)

    def finalize(self, partial, dispatched):
        return super().finalize(self.moved(partial, 1), self.turned(dispatched, 1))


class ForgetsItsOrder(OwnRowsFirst):
    """Sums up as though the rows were in rank order: wrong."""

    row = Row(
        name="forgets",
        target="tests.harness.checks.stage_members:ForgetsItsOrder",
        deterministic=True,
    )

    def finalize(self, partial, dispatched):
        return AllGatherReduceScatter.finalize(self, partial, self.turned(dispatched, 1))


class KeepsIdsInRankOrder(OwnRowsFirst):
    """Own rows first, with the ids of rank order beside them: wrong."""

    row = Row(
        name="keeps_ids",
        target="tests.harness.checks.stage_members:KeepsIdsInRankOrder",
        deterministic=True,
    )

    def prepare(self, x, routing):
        sent = AllGatherReduceScatter.prepare(self, x, routing)
        return dataclasses.replace(self.turned(sent, -1), routing=sent.routing)

    def finalize(self, partial, dispatched):
        return AllGatherReduceScatter.finalize(self, partial, dispatched)


class RowForEachSlot(AllGatherReduceScatter):
    """Gives the experts one row for each (token, slot): ids [G * k, 1]."""

    row = Row(
        name="slot_rows",
        target="tests.harness.checks.stage_members:RowForEachSlot",
        deterministic=True,
    )

    def prepare(self, x, routing):
        self.sent = super().prepare(x, routing)
        ids, weights = self.sent.routing.topk_ids, self.sent.routing.topk_weights
        wide = each(self.sent, lambda t: t.repeat_interleave(ids.shape[1], dim=0))
        single = Routing(topk_ids=ids.view(-1, 1), topk_weights=weights.view(-1, 1))
        return dataclasses.replace(wide, routing=single)

    def finalize(self, partial, dispatched):
        slots = partial.float().view(*self.sent.routing.topk_ids.shape, -1)
        return super().finalize(slots.sum(dim=1).to(partial.dtype), self.sent)


class SlotRowsOnOddRanks(RowForEachSlot):
    """One row for each (token, slot) on odd ranks, for each token on the others."""

    row = Row(
        name="odd_slots",
        target="tests.harness.checks.stage_members:SlotRowsOnOddRanks",
        deterministic=True,
    )

    @property
    def base(self):
        return RowForEachSlot if self.group.rank % 2 else AllGatherReduceScatter

    def prepare(self, x, routing):
        return self.base.prepare(self, x, routing)

    def finalize(self, partial, dispatched):
        return self.base.finalize(self, partial, dispatched)
