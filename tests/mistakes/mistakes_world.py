"""Mistakes in who sums with whom: context ranks, split experts, wrong groups, empty calls."""

from __future__ import annotations

import torch

from moe import layer, moe_kernel
from moe.all2all.allgather_reducescatter import AllGatherReduceScatter
from moe.quant.base import QuantMethod
from tests.mistakes.mistake import SAYS, around, mistake

NEVER = "none known"
EP = {"dp_size": 2, "use_ep": True}
PARTS = {"dp_size": 4, "use_ep": True, "expert_dp_size": 2}
SPLIT = {"dp_size": 4, "use_ep": True, "moe_tp_size": 2}


def summed_among(patch, is_kept):
    """Add up the partial sums of those ranks only of which `is_kept(other, own position)` holds."""

    def finalize(real, self, partial, dispatched):
        group, rows = self.group, len(partial) // self.group.size
        clean = torch.where(dispatched.routing.topk_ids.amax(1, keepdim=True) >= 0, partial, 0)
        parts = group.all_gather(clean).view(group.size, group.size, rows, -1)[:, group.rank]
        kept = [r for r in range(group.size) if is_kept(r, group.rank)]
        return parts[kept].sum(dim=0).to(partial.dtype)[: dispatched.counts[group.rank]]

    around(patch, AllGatherReduceScatter, "finalize", finalize)


@mistake("sum over one EP group", NEVER, "moe_tp_ranks_not_summed", **SPLIT)
def columns_of_split_experts_not_summed(patch):
    summed_among(patch, lambda other, own: other % 2 == own % 2)


@mistake("split experts repeated", NEVER, "split_experts_repeated", "doubled", **SPLIT)
def split_experts_added_whole_by_each_rank(patch):
    def finalize(real, self, partial, dispatched):
        return real(self, 2 * partial, dispatched)

    around(patch, AllGatherReduceScatter, "finalize", finalize)


@mistake("sum over all parts", NEVER, "parts_summed", shared_experts=1, **PARTS)
def sums_of_each_part_with_all_experts_added(patch):
    """As if the sum went over the world: the parts of ranks have the same experts."""

    def finalize(real, self, partial, dispatched):
        return real(self, 2 * partial, dispatched)

    around(patch, AllGatherReduceScatter, "finalize", finalize)


@mistake("tokens of another part", NEVER, "neighbour_tokens", SAYS + "rows wrong", **PARTS)
def rows_of_the_next_rank_of_the_part(patch):
    def finalize(real, self, partial, dispatched):
        return real(self, partial.roll(len(partial) // 2, 0), dispatched)

    around(patch, AllGatherReduceScatter, "finalize", finalize)


@mistake("columns of another rank", NEVER, "w2_shard_of_next_rank", **SPLIT)
def second_matrix_of_the_neighbour_s_columns(patch):
    def shard(real, self, w, columns, intermediate):
        return real(self, w.replace(w2=w.w2.roll(intermediate // 2, 2)), columns, intermediate)

    around(patch, QuantMethod, "shard", shard)


@mistake(
    "context ranks do not share experts",
    NEVER,
    "context_ranks_not_summed",
    dp_size=2,
    pcp_size=2,
    use_ep=True,
)
def each_context_rank_sums_alone(patch):
    summed_among(patch, lambda other, own: other % 2 == own % 2)


@mistake("rows of another context rank", NEVER, "neighbour_tokens", pcp_size=2, use_ep=True)
def rows_of_the_next_context_rank(patch):
    def finalize(real, self, partial, dispatched):
        return real(self, partial.roll(len(partial) // 2, 0), dispatched)

    around(patch, AllGatherReduceScatter, "finalize", finalize)


@mistake(
    "wrong group for a reduction",
    "Megatron !2824",
    "reduce_scatter_missing",
    dp_size=2,
    tp_size=2,
    use_ep=True,
)
def sums_stay_within_the_tp_group(patch):
    """Each DP rank's ranks sum among themselves, though experts of others have its tokens, too."""
    summed_among(patch, lambda other, own: other == own)


@mistake("last expert not counted", "vLLM #21497", "expert_dropped", **EP)
def last_expert_of_the_layer_uncounted(patch):
    def mapped(real, layer_spec, rank, device):
        expert_map = real(layer_spec, rank, device)
        expert_map[-1] = -1
        return expert_map

    around(patch, layer, "_expert_map", mapped)


@mistake("rank with all tokens of a call", NEVER, "expert_dropped", logits="last", **EP)
def last_local_expert_never_reached(patch):
    def local(real, ids, expert_map):
        made = real(ids, expert_map)
        return made.masked_fill(made == expert_map.max(), -1)

    around(patch, moe_kernel, "to_local_ids", local)


@mistake("state of a call without tokens", NEVER, "zeros", tokens="none", **EP)
def the_call_after_one_without_tokens_is_taken_for_idle(patch):
    idle = []

    def finalize(real, self, partial, dispatched):
        out = real(self, partial * 0 if idle else partial, dispatched)
        idle[:] = [] if sum(dispatched.counts) else ["yes"]
        return out

    around(patch, AllGatherReduceScatter, "finalize", finalize)


@mistake("sequence of the context ranks", NEVER, "says:rows", m=9, pcp_size=2, use_ep=True)
def sums_of_one_context_rank_shifted(patch):
    """Uneven slices: the second rank takes its rows one row too early."""

    def finalize(real, self, partial, dispatched):
        return real(self, partial.roll(self.group.rank, 0), dispatched)

    around(patch, AllGatherReduceScatter, "finalize", finalize)
