"""Mistakes of puts into the memory of other ranks: where rows go, and when they are there."""

from __future__ import annotations

import dataclasses

import torch

from moe import guarded_buffers
from moe.all2all import symm_mem
from moe.all2all.symm_mem import SymmMem
from tests.mistakes.mistake import around, edited, mistake

PUT = {"dp_size": 2, "use_ep": True, "all2all": "symm_mem"}


@mistake("slot of a neighbour", "no public report", "says:stage finalize", **PUT)
def sums_are_read_where_the_other_rank_s_begin(patch):
    edited(patch, SymmMem, "finalize", 'numbers["back"])', 'numbers["back"].roll(1))')


@mistake("arrival not waited for", "no public report", "says:stage input", **PUT)
def rows_are_read_before_anybody_has_put_them(patch):
    """Always too early: what a buffer held when the call took it."""

    def leases(real, self, x, routing, places):
        taken = real(self, x, routing, places)
        early = dataclasses.replace(taken["codes"], tensor=taken["codes"].tensor.clone())
        return {**taken, "codes": early}

    around(patch, SymmMem, "_leases", leases)


@mistake("rows of another rank's count", "no public report", "says:stage finalize", **PUT)
def as_many_sums_are_put_back_as_another_rank_has(patch):
    real = symm_mem.one_after_the_other

    def places(counts, sent, rank):
        right, other = real(counts, sent, rank), real(counts, sent, (rank + 1) % len(counts))
        limits = map(min, right.limits, (n // 2 for n in other.limits))
        return dataclasses.replace(right, limits=tuple(limits))

    patch.setattr(symm_mem, "one_after_the_other", places)


@mistake(
    "row without its scale", "no public report", "says:stage dispatch", quant="int8_channel", **PUT
)
def scales_are_put_into_the_rows_of_others(patch):
    def rows(real, x, routing, first):
        right = real(x, routing, first)
        return dataclasses.replace(right, scale=right.scale.roll(1, 0))

    around(patch, symm_mem, "_rows", rows)


@mistake("row of an earlier call", "no public report", "says:stage dispatch", **PUT)
def the_last_row_of_each_rank_is_what_an_earlier_call_put(patch):
    """Not even poison tells: the buffers keep what they had."""

    def view_of(raw, shape, dtype):
        size = torch.Size(shape).numel() * dtype.itemsize
        return raw[:size].view(dtype).view(tuple(shape))

    patch.setattr(guarded_buffers, "view_of", view_of)

    def put_rows(real, rows, targets, position, counts, holders):
        is_last = position == counts[:, None] - 1
        real(rows, targets, position.masked_fill(is_last, -1), counts, holders)

    around(patch, symm_mem, "put_rows", put_rows)
