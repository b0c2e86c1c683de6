"""Align tokens: sort (token, slot) pairs by expert and pad each expert to a multiple of a block.

In a grouped GEMM each program then multiplies one block of rows by one expert's weights. Example
with block_m = 2, two experts, topk_ids [[0], [1], [0], [-1], [-1]] (R = 5):

    row_ids       0 2 | 1 5 | 5 5      5 = R: a padding slot
    block_expert   0     1    -1       -1: an unused block
    num_rows      4

One kernel counts the rows of each expert in chunks; another places each chunk, by a program of its
own, at positions computed from the counts of earlier chunks. There are no atomics, so the order is
the same in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.kernels.arguments import check_ids, check_power_of_two
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.tiles import FEW, power_of_2, program_size, tile_length

if TYPE_CHECKING:
    from torch import Tensor

# Chunks on a chip, at most about: a program for each, which reads the counts of all.
_CHUNKS = 128


def _chunk(rows: int, tile: int) -> int:
    """Return the number of rows that one program counts and places: a multiple of its tile.

    On a chip a tile is enough for a program, since tiles of one program wait for each other.
    """
    of_chip = power_of_2(triton.cdiv(rows, _CHUNKS))
    return max(tile, program_size(of_chip, 1 << 15, is_interpreted=INTERPRETED, small=16))


def _tile() -> int:
    """Return the elements of a program's [rows, experts] one-hot tile."""
    return program_size(8192, 1 << 17, is_interpreted=INTERPRETED, small=32)


# Sizes that are no strides: a binary for each multiple of 16 and for 1 would gain nothing.
_SIZES = ("rows", "experts", "chunk_rows", "chunks", "blocks", "blocks_per_program")


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """Rows in the order of experts. P is an upper bound that does not depend on the ids.

    row_ids: [P] int32 flat index into [T * k], ascending within an expert; T * k in padding.
    block_expert: [P / block_m] int32 local expert of each block, -1 for unused blocks.
    num_rows: [] int32 rows in use, padding included; a multiple of block_m.
    rows, experts: T * k and the number of local experts, for which they were aligned.
    """

    row_ids: Tensor
    block_expert: Tensor
    num_rows: Tensor
    block_m: int
    rows: int
    experts: int


def padded_rows(rows: int, experts: int, block_m: int) -> int:
    """Return P, the largest number of slots that `rows` pairs can take, padding included."""
    active = min(rows, experts)
    return (rows + active * (block_m - 1)) // block_m * block_m if active else 0


def align_tokens(topk_ids: Tensor, num_local_experts: int, block_m: int) -> Aligned:
    """Sort and pad the rows of all local experts.

    topk_ids: [T, k] int32 local expert ids; rows with -1 or any other id that is not a local
    expert are left out. block_m: a power of two. Raises MoEError for another one, and ids that are
    no integers.
    """
    _check(topk_ids, block_m)
    ids = topk_ids.contiguous().view(-1)
    rows, device = ids.numel(), ids.device
    total = padded_rows(rows, num_local_experts, block_m)
    out = Aligned(
        row_ids=guarded_buffers.empty((total,), dtype=torch.int32, device=device),
        block_expert=guarded_buffers.empty((total // block_m,), dtype=torch.int32, device=device),
        num_rows=guarded_buffers.empty((), dtype=torch.int32, device=device),
        block_m=block_m,
        rows=rows,
        experts=num_local_experts,
    )
    if total == 0:
        out.num_rows.zero_()
        return out
    _fill(out, ids, num_local_experts)
    return out


def _check(topk_ids: Tensor, block_m: int) -> None:
    check_ids("topk_ids", topk_ids)
    check_power_of_two("block_m", block_m)


def _fill(out: Aligned, ids: Tensor, experts: int) -> None:
    """Run the kernels. ids: [R] int32."""
    rows, blocks, device = ids.numel(), out.block_expert.numel(), ids.device
    lanes = triton.next_power_of_2(experts)
    if not INTERPRETED:
        lanes = max(lanes, FEW)
    most_rows = max(1, _tile() // lanes)
    tile = tile_length(rows, most_rows, few=FEW, is_interpreted=INTERPRETED)
    chunk_rows = _chunk(rows, tile)
    chunks = triton.cdiv(rows, chunk_rows)
    counts = guarded_buffers.empty((chunks, experts), dtype=torch.int32, device=device)
    sizes = {"TILE": tile, "EXPERTS": lanes}
    launch(_count, (chunks,), device, ids, counts, rows, experts, chunk_rows, **sizes)
    blocks_per_program = triton.cdiv(blocks, chunks)
    max_blocks = max(1, _tile() // max(lanes, out.block_m))
    at_once = tile_length(blocks_per_program, max_blocks, few=FEW, is_interpreted=INTERPRETED)
    launch(
        *(_place, (chunks,), device, ids, counts, out.row_ids, out.block_expert, out.num_rows),
        *(rows, experts, chunk_rows, chunks, blocks, blocks_per_program),
        **sizes,
        CHUNKS=min(power_of_2(chunks), most_rows) if INTERPRETED else tile,
        BLOCK_M=out.block_m,
        BLOCKS=at_once,
    )


@triton.jit
def _one_hot(ids_ptr, start, rows, experts, TILE: tl.constexpr, EXPERTS: tl.constexpr):
    """Return [TILE, EXPERTS] int32: 1 where row `start + i` goes to expert j, 0 for rows of -1."""
    at = start + tl.arange(0, TILE)
    ids = tl.load(ids_ptr + at, mask=at < rows, other=-1)
    expert = tl.arange(0, EXPERTS)
    return ((ids[:, None] == expert[None, :]) & (expert < experts)[None, :]).to(tl.int32)


@triton.jit(do_not_specialize=_SIZES[:3])
def _count(
    ids_ptr, counts_ptr, rows, experts, chunk_rows, TILE: tl.constexpr, EXPERTS: tl.constexpr
):
    """Write counts[chunk, expert]: the number of the chunk's rows that go to the expert."""
    chunk = tl.program_id(0)
    total = tl.zeros([EXPERTS], tl.int32)
    for done in range(0, tl.minimum(rows, chunk_rows), TILE):
        first = chunk * chunk_rows + done
        total += tl.sum(_one_hot(ids_ptr, first, rows, experts, TILE, EXPERTS), axis=0)
    expert = tl.arange(0, EXPERTS)
    tl.store(counts_ptr + chunk * experts + expert, total, mask=expert < experts)


@triton.jit(do_not_specialize=_SIZES)
def _place(
    ids_ptr, counts_ptr, row_ids_ptr, block_expert_ptr, num_rows_ptr,
    rows, experts, chunk_rows, chunks, blocks, blocks_per_program,
    TILE: tl.constexpr, EXPERTS: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Write the slots of the chunk's rows, then this program's share of blocks and padding."""
    chunk = tl.program_id(0)
    expert = tl.arange(0, EXPERTS)
    total = tl.zeros([EXPERTS], tl.int32)
    before = tl.zeros([EXPERTS], tl.int32)
    for read in range(0, chunks, CHUNKS):
        other = read + tl.arange(0, CHUNKS)
        held = (other < chunks)[:, None] & (expert < experts)[None, :]
        numbers = other[:, None] * experts + expert[None, :]
        count = tl.load(counts_ptr + numbers, mask=held, other=0)
        total += tl.sum(count, axis=0)
        before += tl.sum(tl.where((other < chunk)[:, None], count, 0), axis=0)
    padded = (total + BLOCK_M - 1) // BLOCK_M * BLOCK_M
    end = tl.cumsum(padded, axis=0)
    start = end - padded

    slot = start + before  # of the next row of each expert
    for done in range(0, tl.minimum(rows, chunk_rows), TILE):
        first = chunk * chunk_rows + done
        one_hot = _one_hot(ids_ptr, first, rows, experts, TILE, EXPERTS)
        earlier = tl.cumsum(one_hot, axis=0) - one_hot
        place = tl.sum(one_hot * (slot[None, :] + earlier), axis=1)
        row = first + tl.arange(0, TILE)
        tl.store(row_ids_ptr + place, row, mask=tl.sum(one_hot, axis=1) > 0)
        slot += tl.sum(one_hot, axis=0)

    for done in range(0, blocks_per_program, BLOCKS):
        at = done + tl.arange(0, BLOCKS)
        block = chunk * blocks_per_program + at
        live = (at < blocks_per_program) & (block < blocks)
        first_slot = block * BLOCK_M
        inside = (first_slot[:, None] >= start[None, :]) & (first_slot[:, None] < end[None, :])
        owner = tl.sum(tl.where(inside, expert[None, :] + 1, 0), axis=1) - 1
        tl.store(block_expert_ptr + block, owner, mask=live)
        filled = tl.sum(tl.where(inside, (start + total)[None, :], 0), axis=1)
        slots = first_slot[:, None] + tl.arange(0, BLOCK_M)[None, :]
        padding = (slots >= filled[:, None]) & live[:, None]
        tl.store(row_ids_ptr + slots, tl.zeros_like(slots) + rows, mask=padding)
    if chunk == 0:
        tl.store(num_rows_ptr, tl.sum(padded, axis=0))


def align_tokens_torch(topk_ids: Tensor, num_local_experts: int, block_m: int) -> Aligned:
    """Compute the result of `align_tokens`, one expert at a time."""
    _check(topk_ids, block_m)
    ids = topk_ids.reshape(-1)
    rows = ids.numel()
    total = padded_rows(rows, num_local_experts, block_m)
    row_ids = torch.full((total,), rows, dtype=torch.int32)
    block_expert = torch.full((total // block_m,), -1, dtype=torch.int32)
    used = 0
    for expert in range(num_local_experts):
        expert_rows = (ids == expert).nonzero().flatten().int().cpu()
        row_ids[used : used + len(expert_rows)] = expert_rows
        blocks = -(-len(expert_rows) // block_m)
        block_expert[used // block_m : used // block_m + blocks] = expert
        used += blocks * block_m
    return Aligned(
        row_ids=row_ids.to(ids.device),
        block_expert=block_expert.to(ids.device),
        num_rows=torch.tensor(used, dtype=torch.int32, device=ids.device),
        block_m=block_m,
        rows=rows,
        experts=num_local_experts,
    )
