"""Mistakes of backends that send a token to some ranks only, or into blocks of a fixed capacity."""

from __future__ import annotations

import dataclasses

from moe import guarded_buffers
from moe.all2all import all_to_all
from moe.all2all.all_to_all_batched import AllToAllBatched
from moe.all2all.naive import Naive
from moe.moe_kernel import MoEKernel
from tests.harness.checks import stage_faults
from tests.mistakes.mistake import around, edited, mistake

SENT = {"dp_size": 2, "use_ep": True, "all2all": "all_to_all"}
BLOCKS = {"dp_size": 2, "use_ep": True, "all2all": "all_to_all_batched"}


@mistake("duplicate tokens added twice", "no public report", "doubled", "which_shares", **SENT)
def a_token_is_sent_once_for_each_of_its_experts(patch):
    stage_faults.a_token_for_each_slot(patch)


@mistake(
    "scales without their rows' order",
    "no public report",
    "says:stage dispatch",
    quant="int8_channel",
    **SENT,
)
def scales_are_sent_in_another_order(patch):
    stage_faults.scales_in_another_order(patch)


@mistake("sums of other tokens", "vLLM #52639", "rows_moved", "stage_moved", **SENT)
def sums_come_back_to_other_tokens(patch):
    stage_faults.sums_of_other_tokens(patch)


# Of two ranks nothing else comes of it than of an offset that is taken twice on the second one.
@mistake(*("last rank's sums lost", "Megatron !2824", "rank_missing", "offset_taken_twice"), **SENT)
def what_the_last_rank_sends_back_is_not_added(patch):
    edited(patch, all_to_all, "_added", "for count in way.sent:", "for count in way.sent[:-1]:")


@mistake(
    "counts of another rank", "vLLM #19515", "says:stage gemm1", experts="triton_batched", **BLOCKS
)
def a_block_has_the_number_of_rows_of_another(patch):
    """The kernel leaves rows out, or computes rows that are not in use."""

    def prepare(real, self, x, routing):
        sent = real(self, x, routing)
        return dataclasses.replace(sent, block_counts=sent.block_counts.roll(1))

    around(patch, AllToAllBatched, "prepare", prepare)


@mistake("capacity overflow dropped", "no public report", "zeros", **BLOCKS)
def rows_beyond_two_of_each_block_are_dropped(patch):
    stage_faults.a_block_cut_short(patch)


@mistake("combine in another slot order", "no public report", "weights_reversed", **BLOCKS)
def outputs_get_the_weights_of_other_slots(patch):
    stage_faults.weights_of_other_slots(patch)


@mistake("stale workspace", "vLLM #54083", "says:stage dispatch", **BLOCKS)
def the_last_row_of_the_blocks_is_an_earlier_call_s(patch):
    """Not even poison tells: the buffer keeps what it had."""

    def view_of(raw, shape, dtype):
        size = 1
        for n in shape:
            size *= n
        return raw[: size * dtype.itemsize].view(dtype).view(tuple(shape))

    patch.setattr(guarded_buffers, "view_of", view_of)
    edited(
        *(patch, AllToAllBatched, "_in_blocks"),
        "as_bytes(lease.tensor)[way.at] = as_bytes(x)",
        "as_bytes(lease.tensor)[way.at[:-1]] = as_bytes(x)[:-1]",
    )


@mistake("order of a gather", "vllm-ascend #11921", "neighbour_tokens", dp_size=2, all2all="naive")
def each_rank_takes_the_sums_of_the_other(patch):
    def finalize(real, self, partial, dispatched):
        return real(self, partial.roll(len(partial) // 2, 0), dispatched)

    around(patch, Naive, "finalize", finalize)


@mistake("last chunk left out", "vLLM #20392", "zeros", chunk=3, dp_size=2, use_ep=True)
def the_last_tokens_that_fill_no_chunk_are_left_out(patch):
    edited(
        *(patch, MoEKernel, "_chunks"),
        "outputs.append(self._apply(x[rows], _rows(routing, rows)))",
        "outputs.append(self._apply(x[rows], _rows(routing, rows)) * (start + size <= len(x)))",
    )


@mistake("stale chunk", "vLLM #20392", "says:stage dispatch", chunk=3, **BLOCKS)
def a_chunk_has_the_routing_of_the_first(patch):
    edited(
        *(patch, MoEKernel, "_chunks"),
        "_rows(routing, rows)",
        "_rows(routing, slice(0, len(x[rows])))",
    )
