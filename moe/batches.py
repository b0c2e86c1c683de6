"""Convert between the dispatch formats `standard` and `batched`, within one rank.

Standard rows are contiguous tokens with k ids each. Batched rows lie in a block of C rows for each
local expert, in the order of their flat (token, slot) numbers:

    topk_ids [[0, 1], [-1, 0]], e = 2, C = 2        slots [[0, 3], [1, -1]], counts [2, 1]

The rows of a block beyond its count are not written: they hold whatever the memory held. All sizes
follow from shapes, so that there is no device sync.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from moe import guarded_buffers
from moe.byte_views import as_bytes
from moe.errors import MoEError
from moe.types import Batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.types import Activations, Routing


def to_batches(x: Activations, topk_ids: Tensor, num_local: int, capacity: int) -> Batches:
    """Return the rows of `x` in blocks of `capacity` rows, one for each of `num_local` experts.

    x: [T, K] activations. topk_ids: [T, k] int32 local ids; -1 slots are left out.

    Raises MoEError if an expert has more rows than `capacity`. On a device that cannot be asked
    without a sync, a device-side assertion fails instead.
    """
    tokens, top_k = topk_ids.shape
    place, counts = _places(topk_ids, num_local)
    _check_counts(counts, capacity)
    ids = topk_ids.reshape(-1).long()
    used = (ids >= 0) & (place < capacity)
    rows = num_local * capacity
    # One row more than there is takes what is left out, so that no size depends on the ids.
    at = torch.where(used, ids * capacity + place, rows)
    slots = torch.full((rows + 1,), -1, dtype=torch.int32, device=at.device)
    slots[at] = torch.arange(tokens * top_k, dtype=torch.int32, device=at.device)
    token = torch.arange(tokens * top_k, device=at.device) // top_k
    codes = _scattered(x.codes, token, at, rows)
    scale = x.scale
    if scale is not None and x.format.has_row_scales:
        scale = _scattered(scale, token, at, rows).view(num_local, capacity, scale.shape[1])
    return Batches(
        x=x.replace(codes=codes.view(num_local, capacity, codes.shape[1]), scale=scale),
        counts=counts,
        slots=slots[:rows].view(num_local, capacity),
    )


def from_batches(y: Tensor, batches: Batches, routing: Routing) -> Tensor:
    """Return [T, K], the sum over slots of weight * row, in float32, rounded once.

    y: [e, C, K] outputs by batched row. Slots of -1 are not read; a token with only such slots gets
    zeros.
    """
    tokens, top_k = routing.topk_ids.shape
    flat = batches.slots.reshape(-1).long()
    at = torch.zeros(tokens * top_k + 1, dtype=torch.int64, device=y.device)
    at[torch.where(flat >= 0, flat, tokens * top_k)] = torch.arange(len(flat), device=y.device)
    out = guarded_buffers.empty((tokens, y.shape[2]), dtype=y.dtype, device=y.device)
    if len(flat) == 0 or tokens == 0:
        return out.zero_()
    used = (routing.topk_ids >= 0)[:, :, None]
    rows = y.view(len(flat), y.shape[2])[at[:-1]].view(tokens, top_k, y.shape[2])
    weighted = rows.float() * routing.topk_weights[:, :, None]
    return out.copy_(torch.where(used, weighted, 0.0).sum(dim=1))


def in_blocks(
    x: Activations, ids: Tensor, counts: Tensor, capacity: Callable[[int], int]
) -> Batches:
    """Return rows that an all2all backend has put into blocks, without a copy if it can be.

    x: [e * C, K]. ids: [e * C, 1], -1 = not in use. counts: [e] int32. capacity: from C to the rows
    that each block must have; the further ones are undefined. slots: the number of each row.
    """
    experts = len(counts)
    rows = len(ids) // max(experts, 1)
    room = capacity(rows)
    number = torch.arange(len(ids), dtype=torch.int32, device=ids.device)
    slots = torch.where(ids[:, 0] >= 0, number, -1).view(experts, rows)
    scale = x.scale
    if scale is not None and x.format.has_row_scales:
        scale = _roomy(scale.view(experts, rows, scale.shape[1]), room)
    codes = _roomy(x.codes.view(experts, rows, x.codes.shape[1]), room)
    padding = (0, max(room - rows, 0))
    return Batches(
        x=x.replace(codes=codes, scale=scale),
        counts=counts,
        slots=torch.nn.functional.pad(slots, padding, value=-1),
    )


def _roomy(blocks: Tensor, room: int) -> Tensor:
    """Return blocks [e, C, K] with further rows up to this number, which are not written."""
    experts, rows, columns = blocks.shape
    if room <= rows:
        return blocks
    shape = (experts, room, columns)
    wide = guarded_buffers.empty(shape, dtype=blocks.dtype, device=blocks.device)
    as_bytes(wide)[:, :rows] = as_bytes(blocks)
    return wide


def with_adapters(batches: Batches, routing: Routing) -> Batches:
    """Return the batches with the adapter of each row, if the tokens have adapters."""
    if routing.adapters is None:
        return batches
    token = batches.slots.long() // routing.topk_ids.shape[1]  # -1 of rows that are not in use
    padded = torch.cat([routing.adapters, routing.adapters.new_full((1,), -1)])
    return replace(batches, adapters=padded[token])


def _places(topk_ids: Tensor, num_local: int) -> tuple[Tensor, Tensor]:
    """Return each slot's place among its expert's slots [R] int64, and counts [e] int32."""
    ids = topk_ids.reshape(-1)
    ordered, order = torch.where(ids < 0, num_local, ids).sort(stable=True)
    experts = torch.arange(num_local + 1, dtype=ids.dtype, device=ids.device)
    starts = torch.searchsorted(ordered, experts)  # the last one: of slots that are left out
    place = torch.empty_like(order)
    place[order] = torch.arange(len(ids), device=ids.device) - starts[ordered.long()]
    return place, starts.diff().to(torch.int32)


def _check_counts(counts: Tensor, capacity: int) -> None:
    fits = (counts <= capacity).all()
    if counts.device.type != "cpu":
        torch._assert_async(fits)
    elif not fits:
        expert = int(counts.argmax())
        raise MoEError(
            f"local expert {expert} gets {int(counts[expert])} rows, and its batch has room for "
            f"{capacity}: return more from `capacity`, or send fewer tokens at a time"
        )


def _scattered(x: Tensor, source: Tensor, at: Tensor, rows: int) -> Tensor:
    """Return [rows, C] with x[source[i]] in row at[i]; other rows are not written."""
    out = guarded_buffers.empty((rows + 1, x.shape[1]), dtype=x.dtype, device=x.device)
    if x.element_size() == 1:  # not every backend indexes fp8
        out.view(torch.uint8)[at] = x.view(torch.uint8)[source]
    else:
        out[at] = x[source]
    return out[:rows]
