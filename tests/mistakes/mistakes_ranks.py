"""Mistakes between ranks: sums, shards, whose tokens, shared experts."""

from __future__ import annotations

import torch

from harness.fixtures import layer_weights
from moe import layer
from moe.all2all.allgather_reducescatter import AllGatherReduceScatter
from moe.collectives import Group
from moe.moe_kernel import MoEKernel
from moe.quant import base as quant_base
from moe.quant.base import QuantMethod
from moe.shared import SharedExperts
from moe.types import Dispatched, Routing
from tests.mistakes.mistake import around, mistake

EP = {"dp_size": 2, "use_ep": True}
SP = {"tp_size": 2, "use_ep": True, "sequence_parallel": True}
TP = {"tp_size": 2}


@mistake("double reduce", "vLLM #49122", "all_reduce_twice", "doubled", **TP)
def reduced_twice(patch):
    around(patch, Group, "all_reduce", lambda real, self, x: real(self, real(self, x)))


@mistake("reduce missing", "Megatron !2824", "all_reduce_missing", **TP)
def reduce_missing(patch):
    patch.setattr(Group, "all_reduce", lambda self, x: x)


@mistake("one rank left out", "Megatron !2824", "tp_rank_missing", dp_size=2, tp_size=2)
def share_of_one_rank_missing(patch):
    around(patch, Group, "all_reduce", lambda real, self, x: real(self, x * (self.rank == 0)))


@mistake("reduce under SP", "vLLM #37856", "tp_tokens_summed", m=2, **SP)
def reduced_though_tokens_are_split(patch):
    def finalize(real, self, partial, dispatched):
        return self.group.all_reduce(real(self, partial, dispatched))

    around(patch, AllGatherReduceScatter, "finalize", finalize)


def finalized(patch, change):
    """Change the partial sums before they are combined: `change(partial, dispatched, group)`."""

    def finalize(real, self, partial, dispatched):
        return real(self, change(partial, dispatched, self.group), dispatched)

    around(patch, AllGatherReduceScatter, "finalize", finalize)


@mistake("combine with other ranks' ids", "vLLM #52639", "neighbour_tokens", **EP)
def rows_of_another_rank_returned(patch):
    finalized(patch, lambda partial, sent, group: partial.roll(len(partial) // 2, 0))


def gathered(patch, change):
    """Change what was dispatched: `change(dispatched, group) -> Dispatched`."""
    around(
        patch,
        AllGatherReduceScatter,
        "prepare",
        lambda real, self, x, routing: change(real(self, x, routing), self.group),
    )


def first_rank_s(t: torch.Tensor, group: Group) -> torch.Tensor:
    """[size * T, ...] with the first rank's rows in every place."""
    return torch.cat([t[: len(t) // group.size]] * group.size)


@mistake("combine with other ranks' weights", "vLLM #52639", "first_rank_weights", **EP)
def weights_of_the_first_rank_for_all(patch):
    def change(sent, group):
        weights = first_rank_s(sent.routing.topk_weights, group)
        routing = Routing(topk_ids=sent.routing.topk_ids, topk_weights=weights)
        return Dispatched(x=sent.x, routing=routing, counts=sent.counts)

    gathered(patch, change)


@mistake("only rank 0 right", "vllm-gaudi #1796", "first_rank_inputs", dp_size=2)
def every_rank_computes_the_first_one_s_tokens(patch):
    def change(sent, group):
        x = type(sent.x)(codes=first_rank_s(sent.x.codes, group), scale=sent.x.scale)
        return Dispatched(x=x, routing=sent.routing, counts=sent.counts)

    gathered(patch, change)


@mistake("order of a gather", "vllm-ascend #11921", "reversed_rank_inputs", dp_size=2)
def tokens_gathered_in_reverse_rank_order(patch):
    def change(sent, group):
        turned = sent.x.codes.roll(len(sent.x.codes) // 2, 0)
        x = type(sent.x)(codes=turned, scale=sent.x.scale)
        return Dispatched(x=x, routing=sent.routing, counts=sent.counts)

    gathered(patch, change)


@mistake(
    "uneven tokens",
    "TRT-LLM #6173",
    "unpadded_offsets",
    m=6,
    dp_size=4,
    use_ep=True,
    tokens="ragged",
)
def rows_found_by_unpadded_offsets(patch):
    """Ranks look for their rows where they would be if nothing were padded.

    Of two ranks the second's are where padding puts them, so it takes more.
    """

    def change(partial, sent, group):
        rows, out = len(partial) // group.size, partial.clone()
        for rank in range(1, group.size):
            start = sum(sent.counts[:rank])
            out[rank * rows : rank * rows + sent.counts[rank]] = partial[
                start : start + sent.counts[rank]
            ]
        return out

    finalized(patch, change)


@mistake(
    "padding rows combined",
    "FI #3650",
    "rows_moved",
    "rows_of_ranks",
    "rolled",
    tokens="ragged",
    **EP,
)
def rows_of_padding_come_first(patch):
    def finalize(real, self, partial, sent):
        mine = self.group.reduce_scatter(partial)
        return mine[len(mine) - sent.counts[self.group.rank] :]

    around(patch, AllGatherReduceScatter, "finalize", finalize)


@mistake("padded shard stride", "vLLM #43865", **TP)
def shard_read_with_the_padded_stride(patch):
    """The second rank's columns start eight too late; the last ones come around."""

    def shard(real, self, w, columns, intermediate):
        shift = -8 if columns.start else 0
        gate, up = w.w13.chunk(2, dim=1)
        w13 = torch.cat([gate.roll(shift, 1), up.roll(shift, 1)], dim=1)
        return real(self, w.replace(w13=w13), columns, intermediate)

    around(patch, QuantMethod, "shard", shard)


@mistake("padding per rank", "vLLM #44679", "which_shares", **TP)
def padding_cut_from_every_shard(patch):
    """The last columns of the whole are padding; here each rank drops as many of its own."""

    def prepared(real, self, weights):
        w2 = weights.w2.clone()
        w2[:, :, -8:] = 0
        real(self, weights.replace(w2=w2))

    from moe.experts.torch_grouped import TorchGroupedExperts

    around(patch, TorchGroupedExperts, "prepare_weights", prepared)


@mistake("gate and up sharded as one", "vLLM #31534", "shard_of_joined_rows", **TP)
def gate_up_sharded_as_one_matrix(patch):
    def contiguous(t, columns, intermediate):
        return t[:, 2 * columns.start : 2 * columns.stop].contiguous()

    patch.setattr(quant_base, "_rows_of", contiguous)


@mistake("shards of two ranks", "vLLM #31534", "w2_shard_of_next_rank", **TP)
def w2_shard_of_the_other_rank(patch):
    def shard(real, self, w, columns, intermediate):
        return real(self, w.replace(w2=w.w2.roll(intermediate // 2, 2)), columns, intermediate)

    around(patch, QuantMethod, "shard", shard)


def whole(p, rank, w13, w2, quant, gate=None):
    """All columns of the shared experts, on every rank."""
    weights = quant.quantize_weights(w13[None], w2[None])
    return SharedExperts(weights=weights, quant=quant, gate=gate)


@mistake("shared expert missing", "vLLM #51632", "shared_missing", shared_experts=1)
def shared_experts_dropped(patch):
    around(patch, SharedExperts, "forward", lambda real, self, x: real(self, x) * 0)


@mistake(
    "shared expert reduced twice",
    "vLLM #49122",
    "shared_once_per_rank",
    "shared_twice",
    shared_experts=1,
    **TP,
)
def shared_experts_whole_on_every_rank(patch):
    patch.setattr(layer_weights, "shard_shared", whole)


@mistake("shared expert under SP", "vLLM #37856", "shared_unreduced", shared_experts=1, **SP)
def shared_experts_split_though_tokens_are(patch):
    def half(p, rank, w13, w2, quant, gate=None):
        n = w2.shape[1] // 2
        gate, up = w13.chunk(2, dim=0)
        part = slice(n * (rank % 2), n * (rank % 2) + n)
        return whole(p, rank, torch.cat([gate[part], up[part]]), w2[:, part].contiguous(), quant)

    patch.setattr(layer_weights, "shard_shared", half)


@mistake("hidden states overwritten", "vLLM #28939", "shared_from_output", shared_experts=1)
def shared_experts_see_the_routed_output(patch):
    seen = []

    def apply(real, self, x, routing):
        seen.append(real(self, x, routing))
        return seen[-1]

    around(patch, MoEKernel, "apply", apply)
    around(patch, SharedExperts, "forward", lambda real, self, x: real(self, seen.pop()))


@mistake(
    *(
        "idle rank skips collectives",
        "vLLM #43547",
        "says:ended its call without",
    ),
    **{"seconds": 15, "tokens": "idle", **EP},
)
def a_rank_without_tokens_returns_early(patch):
    def forward(real, self, x, logits):
        if len(x):
            return real(self, x, logits)
        routing = self.router(
            logits, self.layer_spec.top_k, renormalize=self.layer_spec.renormalize
        )
        return layer.Output(out=x, routing=routing)

    around(patch, layer.FusedMoE, "forward", forward)
