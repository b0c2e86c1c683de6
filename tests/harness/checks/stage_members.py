"""Members from outside: all2alls that gather in ways of their own, two of them wrong, and a right
experts backend that makes its buffers once."""

from __future__ import annotations

import dataclasses

import torch

from moe import intermediates
from moe.all2all.allgather_reducescatter import AllGatherReduceScatter
from moe.experts.torch_loop import TorchLoopExperts
from moe.quant.base import dequantize_activations, dequantize_weight
from moe.spec import MemberSpec
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

    row = MemberSpec(
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

    row = MemberSpec(
        name="forgets",
        target="tests.harness.checks.stage_members:ForgetsItsOrder",
        deterministic=True,
    )

    def finalize(self, partial, dispatched):
        return AllGatherReduceScatter.finalize(self, partial, self.turned(dispatched, 1))


class KeepsIdsInRankOrder(OwnRowsFirst):
    """Own rows first, with the ids of rank order beside them: wrong."""

    row = MemberSpec(
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

    row = MemberSpec(
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

    row = MemberSpec(
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


class PersistentWorkspace(TorchLoopExperts):
    """Every stage and the output lie in buffers that the next call writes again: right."""

    row = MemberSpec(
        name="workspace",
        target="tests.harness.checks.stage_members:PersistentWorkspace",
        deterministic=True,
    )

    def prepare_weights(self, weights):
        super().prepare_weights(weights)
        self.buffers = {}

    def buffer(self, name, like):
        """A view of the buffer of this name, with the values written into it."""
        held = self.buffers.get(name)
        if held is None or len(held) < len(like):
            held = self.buffers[name] = torch.zeros((64, *like.shape[1:]), dtype=like.dtype)
        view = held[: len(like)]
        return view.copy_(like)

    def apply(self, x, routing):
        values, ids = dequantize_activations(x), routing.topk_ids
        self.first_product(values, ids)
        gate, up = self.gate_up.chunk(2, dim=1)
        h = self.buffer("h", torch.nn.functional.silu(gate) * up)
        second = self.quant.quantize_intermediate(h, self.weights.a2_scale)
        codes = self.buffer("codes", second.codes)
        intermediates.keep("gemm1", self.gate_up)
        intermediates.keep("activation", h)
        intermediates.keep("second", codes)
        intermediates.keep("second_scale", second.scale)
        h = dequantize_activations(second)
        y = self.buffer("y", self.product(h, ids.flatten(), self.weights.down))
        intermediates.keep("gemm2", y)
        total = (routing.topk_weights[..., None] * y.view(*ids.shape, -1)).sum(dim=1)
        return self.buffer("out", total.to(self.dtype))

    def first_product(self, values, ids):
        rows = values.repeat_interleave(ids.shape[1], dim=0)
        made = self.product(rows, ids.flatten(), self.weights.gate_up)
        self.gate_up = self.buffer("gate_up", made)

    def product(self, rows, ids, matrices):
        weights = [dequantize_weight(matrices.expert(int(e))) for e in ids]
        return torch.stack([w @ row for w, row in zip(weights, rows, strict=True)])


class LeavesRowsUnwritten(TorchLoopExperts):
    """A token without an expert on this rank keeps what lay in the buffer, here NaN: wrong.

    It hands out no stage, as most backends do."""

    row = MemberSpec(
        name="unwritten",
        target="tests.harness.checks.stage_members:LeavesRowsUnwritten",
        deterministic=True,
    )

    def apply(self, x, routing):
        with intermediates.recording():  # so that what is kept here goes nowhere
            out = TorchLoopExperts.apply(self, x, routing)
        out[(routing.topk_ids < 0).all(dim=1)] = torch.nan
        return out
