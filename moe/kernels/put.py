"""Put rows of tokens into the memory of other ranks by address.

Each rank has buffers that all ranks of its group can address; a kernel gets the addresses as
numbers, one for each rank. `moe.kernels.place` finds which tokens go to which rank, `put_rows`
writes them there, and `moe.kernels.put_back` brings the sums back. Nothing here waits: who reads
what others have put waits for them first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from moe.byte_views import as_bytes
from moe.errors import MoEError
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.tiles import power_of_2, program_columns, program_rows, program_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Hold what a rank puts: T tokens with their codes, routing and numbers.

    codes: [T, B] words. scale: [T, Bs] words or None. ids: [T, k] int32, -1 = none. weights: [T, k]
    float32. adapters: [T] int32 or None. first: number of the first token among those of all ranks.
    """

    codes: Tensor
    scale: Tensor | None
    ids: Tensor
    weights: Tensor
    adapters: Tensor | None
    first: int


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Say where rows go. codes, scale, numbers: [S] int64 addresses of each rank's buffers.

    starts: [S] int64, row of each rank's buffers at which the rows of this rank begin. room: rows
    of the buffers. fill: rows that are reserved for this rank in each; those that it does not use
    get -1 as token and ids. Numbers are int32 in the order of `number_blocks`.
    """

    codes: Tensor
    scale: Tensor | None
    numbers: Tensor
    starts: Tensor
    room: int
    fill: int


def words_of(rows: Tensor) -> Tensor:
    """Return [T, C] rows of any dtype as contiguous rows of the largest integers that fit in."""
    rows = rows.contiguous()
    size = rows.shape[1] * rows.element_size()
    begin = rows.storage_offset() * rows.element_size()
    word = next(w for w in _WORDS if size % w == 0 and begin % w == 0)
    if rows.numel() == 0:  # its strides may be anything, and views look at them
        return rows.new_empty((len(rows), size // word), dtype=_WORDS[word])
    return as_bytes(rows).view(torch.uint8).view(_WORDS[word])


def number_blocks(room: int, top_k: int, has_adapters: bool) -> dict[str, int]:
    """Return name -> where each block of the numbers of `room` rows begins; `end` is their sum."""
    sizes = {"tokens": 1, "ids": top_k, "weights": top_k, "adapters": int(has_adapters)}
    begins, at = {}, 0
    for name, size in sizes.items():
        begins[name] = at
        at += room * size
    return begins | {"end": at}


def _tile() -> int:
    """Return the elements that one program handles."""
    return program_size(1024, 1 << 17, is_interpreted=INTERPRETED)


def put_rows(
    rows: Rows, targets: Targets, position: Tensor, counts: Tensor, holders: Tensor
) -> None:
    """Write each token's row into the buffers of each rank to which it goes.

    position, counts: of `place`, for the same ids and holders. Ids of experts that the rank does
    not hold become -1 there. Raises MoEError for shapes that do not fit each other.
    """
    _check_rows(rows, targets, position)
    ranks, tokens = position.shape
    top_k, device = rows.ids.shape[1], rows.codes.device
    words = rows.codes.shape[1]
    scale_words = 0 if rows.scale is None else rows.scale.shape[1]
    columns = program_columns(words)
    lines = max(tokens, targets.fill)
    tile = program_rows(lines, columns, _tile(), is_interpreted=INTERPRETED)
    launch(
        *(_put, (ranks * triton.cdiv(lines, tile), triton.cdiv(words, columns)), device),
        *(rows.codes, targets.codes, rows.scale, targets.scale, targets.numbers),
        *(rows.ids.contiguous(), rows.weights.contiguous().view(torch.int32), rows.adapters),
        *(position, counts, holders, targets.starts, tokens, targets.fill, targets.room),
        *(rows.first, holders.shape[1], words, scale_words, ranks),
        SLOTS=top_k,
        ROWS=tile,
        WIDE=columns,
        WIDE_SCALE=power_of_2(scale_words),
        WIDE_SLOTS=power_of_2(top_k),
    )


def _check_rows(rows: Rows, targets: Targets, position: Tensor) -> None:
    ranks, tokens = position.shape
    shapes = {
        "rows.ids": (rows.ids.shape[0], tokens),
        "rows.weights": (rows.weights.shape[0], tokens),
        "rows.codes": (rows.codes.shape[0], tokens),
        "targets.codes": (len(targets.codes), ranks),
        "targets.numbers": (len(targets.numbers), ranks),
        "targets.starts": (len(targets.starts), ranks),
    }
    for name, (length, wanted) in shapes.items():
        if length != wanted:
            raise MoEError(f"{name} has {length} entries, and position [S, T] asks for {wanted}")
    if (rows.scale is None) != (targets.scale is None):
        raise MoEError("scales have rows and a target, or neither: pass both or None for both")


@triton.jit(do_not_specialize=("tokens", "fill", "room", "first"))
def _put(
    codes_ptr, codes_at, scale_ptr, scale_at, numbers_at, ids_ptr, weight_ptr, adapter_ptr,
    position_ptr, count_ptr, holders_ptr, start_ptr, tokens, fill, room, first, experts,
    words, scale_words, ranks,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
    WIDE_SCALE: tl.constexpr, WIDE_SLOTS: tl.constexpr,
):  # fmt: skip
    # Neighbours write to different ranks, so that all links are in use at any time.
    rank = (tl.program_id(0) % ranks).to(tl.int64)
    line = (tl.program_id(0) // ranks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    position = tl.load(position_ptr + rank * tokens + line, mask=line < tokens, other=-1)
    goes = position >= 0
    start = tl.load(start_ptr + rank)
    row = start + position
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    both = goes[:, None] & (column < words)[None, :]
    there = tl.load(codes_at + rank).to(codes_ptr.dtype)
    there = tl.multiple_of(there, 16)
    value = tl.load(codes_ptr + line[:, None] * words + column[None, :], mask=both)
    tl.store(there + row[:, None] * words + column[None, :], value, mask=both)
    # Compiled, a name keeps its type inside a branch: each has names of its own.
    if tl.program_id(1) == 0:
        if scale_ptr is not None:
            group = tl.arange(0, WIDE_SCALE)
            scaled = goes[:, None] & (group < scale_words)[None, :]
            scales = tl.load(scale_at + rank).to(scale_ptr.dtype)
            from_here = line[:, None] * scale_words + group[None, :]
            scale = tl.load(scale_ptr + from_here, mask=scaled)
            tl.store(scales + row[:, None] * scale_words + group[None, :], scale, mask=scaled)
        numbers = tl.load(numbers_at + rank).to(tl.pointer_type(tl.int32))
        # A line stands for a token that goes, and for a reserved row that no token gets.
        unused = (line >= tl.load(count_ptr + rank)) & (line < fill)
        reserved = start + line
        tl.store(numbers + row, (first + line).to(tl.int32), mask=goes)
        tl.store(numbers + reserved, tl.full([ROWS], -1, tl.int32), mask=unused)
        slot = tl.arange(0, WIDE_SLOTS)
        is_slot = (slot < SLOTS)[None, :]
        sent, empty = goes[:, None] & is_slot, unused[:, None] & is_slot
        expert = tl.load(ids_ptr + line[:, None] * SLOTS + slot[None, :], mask=sent, other=-1)
        known = (expert >= 0) & (expert < experts)
        held = tl.load(holders_ptr + rank * experts + expert, mask=known, other=0)
        ids = numbers + room
        in_row = row[:, None] * SLOTS + slot[None, :]
        in_reserved = reserved[:, None] * SLOTS + slot[None, :]
        tl.store(ids + in_row, tl.where(held > 0, expert, -1), mask=sent)
        tl.store(ids + in_reserved, tl.full([ROWS, WIDE_SLOTS], -1, tl.int32), mask=empty)
        weight = tl.load(weight_ptr + line[:, None] * SLOTS + slot[None, :], mask=sent, other=0)
        weights = ids + room.to(tl.int64) * SLOTS
        tl.store(weights + in_row, weight, mask=sent)
        tl.store(weights + in_reserved, tl.full([ROWS, WIDE_SLOTS], 0, tl.int32), mask=empty)
        if adapter_ptr is not None:
            adapters = weights + room.to(tl.int64) * SLOTS
            tl.store(adapters + row, tl.load(adapter_ptr + line, mask=goes), mask=goes)
            tl.store(adapters + reserved, tl.full([ROWS], -1, tl.int32), mask=unused)


def put_rows_torch(
    rows: Rows, targets: Targets, position: Tensor, holders: Tensor, buffers: Sequence[Buffers]
) -> None:
    """Do in torch what `put_rows` does. buffers: those of each rank, in the place of addresses."""
    _check_rows(rows, targets, position)
    blocks = number_blocks(targets.room, rows.ids.shape[1], rows.adapters is not None)
    for rank, there in enumerate(buffers):
        tokens = (position[rank] >= 0).nonzero().flatten()
        start = int(targets.starts[rank])
        at = start + torch.arange(len(tokens))
        there.codes[at] = rows.codes[tokens]
        if rows.scale is not None and there.scale is not None:
            there.scale[at] = rows.scale[tokens]
        ids = rows.ids[tokens]
        known = (ids >= 0) & (ids < holders.shape[1])
        held = known & holders[rank].bool()[ids.where(known, 0).long()]
        values = {
            "tokens": (rows.first + tokens[:, None], -1),
            "ids": (torch.where(held, ids, -1), -1),
            "weights": (rows.weights.float().contiguous().view(torch.int32)[tokens], 0),
        }
        if rows.adapters is not None:
            values["adapters"] = (rows.adapters[tokens, None], -1)
        for name, (value, unused) in values.items():
            width = value.shape[1]
            block = there.numbers[blocks[name] :][: targets.room * width].view(-1, width)
            block[start : start + targets.fill] = unused
            block[at] = value.int()


@dataclass(frozen=True, kw_only=True)
class Buffers:
    """Hold the buffers of one rank, as `Targets` has their addresses.

    codes: [room, B] words. scale: [room, Bs] words or None. numbers: int32.
    """

    codes: Tensor
    scale: Tensor | None
    numbers: Tensor
