"""Mistakes that show in some way of calling only: state of two halves, inputs, compiled code."""

from __future__ import annotations

import dataclasses

import torch

from moe.all2all.allgather_reducescatter import AllGatherReduceScatter
from moe.experts import sorted_rows
from moe.experts.torch_grouped import TorchGroupedExperts
from moe.layer import FusedMoE
from tests.mistakes.mistake import NO_CAUSE, around, mistake

NEVER = "none known"
HALVES = {"dp_size": 2, "use_ep": True, "call": "two_batches"}


@mistake("one buffer for two batches", NEVER, "rows_moved", **HALVES)
def sums_of_both_batches_in_one_buffer(patch):
    """The experts keep their largest output; an exchange follows, which hides it otherwise."""

    def kept(real, self, x, routing):
        out = real(self, x, routing)
        if len(out) > len(getattr(self, "kept", ())):
            self.kept = out.clone()
        return self.kept[: len(out)].copy_(out)

    around(patch, TorchGroupedExperts, "apply", kept)


@mistake("handle of the other batch", NEVER, NO_CAUSE, padding="end", **HALVES)
def combine_with_the_last_dispatch(patch):
    """The routing of `prepare` is kept in the member, where the other batch replaces it."""

    def prepared(real, self, x, routing):
        self.last = real(self, x, routing)
        return self.last

    around(patch, AllGatherReduceScatter, "prepare", prepared)

    def finalized(real, self, partial, dispatched):
        last = self.last.routing  # of as many rows if both halves have as many
        is_alike = last.topk_ids.shape == dispatched.routing.topk_ids.shape
        routing = last if is_alike else dispatched.routing
        return real(self, partial, dataclasses.replace(dispatched, routing=routing))

    around(patch, AllGatherReduceScatter, "finalize", finalized)


@mistake("output in the input's memory", NEVER, "says:memory: .* input x", call="overwritten")
def output_written_over_the_input(patch):
    def in_place(real, self, x, *rest, **rows):
        output = real(self, x, *rest, **rows)
        object.__setattr__(output, "out", x.copy_(output.out))
        return output

    around(patch, FusedMoE, "forward", in_place)


@mistake("another path where compiled", NEVER, NO_CAUSE, all2all="local", call="aot_eager")
def rows_in_the_order_of_tokens_where_compiled(patch):
    """Rows of the first experts end where an even routing would have them."""

    def by_expert(real, topk_ids, experts):
        order, ends = real(topk_ids, experts)
        if not torch.compiler.is_compiling():
            return order, ends
        even = torch.arange(1, experts + 1, device=ends.device) * topk_ids.numel() // experts
        return order, even.int()

    around(patch, sorted_rows, "by_expert", by_expert)
