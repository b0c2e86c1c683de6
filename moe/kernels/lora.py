"""Add low-rank adapters to a product: shrink by A, expand by B, grouped by adapter and expert.

The rows of each pair of an adapter and an expert are aligned as those of an expert are. The shrink
is the grouped product itself; the expansion adds to the base product in float32, before anything is
rounded. Rows without an adapter are left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from moe.adapters import add_adapted
from moe.errors import MoEError
from moe.formats.quant_tensor import QuantTensor
from moe.kernels.align import align_tokens
from moe.kernels.arguments import check_ids
from moe.kernels.grouped_gemm import grouped_gemm
from moe.kernels.launch import INTERPRETED, launch, runs_kernels
from moe.kernels.tiles import block_rows, program_columns

if TYPE_CHECKING:
    from torch import Tensor

    from moe.kernels.align import Aligned

_LEAST = 16  # of each side of a tile that a matrix unit multiplies


def add_lora(
    y: Tensor, x: Tensor, chosen: tuple[Tensor, Tensor], matrices: tuple[Tensor, Tensor]
) -> None:
    """Add what adapters contribute to y, in place.

    y: [T * k, h * W] float32, contiguous; W >= O, since each half may end in padding. x: [S, I'] in
    the dtype of A, or float32; S = T or T * k, I' >= I likewise. chosen: local expert ids [T, k]
    and adapters [T], int32, -1 = none. matrices: A [L, e, h, r, I] and B [L, e, h, O, r].

    Raises MoEError for shapes that do not fit each other.
    """
    (ids, adapters), (a, b) = chosen, matrices
    check_ids("adapters", adapters, len(ids))
    check(y, x, ids, matrices)
    count, local, halves, rank, inner = a.shape
    rows = ids.numel()
    if rows == 0 or count * local == 0:
        return
    pairs = pair_ids(ids, adapters, local)
    aligned = align_tokens(
        pairs, count * local, block_rows(rows, count * local, interpreted=INTERPRETED)
    )
    shrunk = grouped_gemm(
        QuantTensor(codes=x[:, :inner].contiguous()),
        QuantTensor(codes=a.reshape(count * local, halves * rank, inner).to(x.dtype)),
        aligned,
        rows=rows,
        dtype=torch.float32,
    )
    _expand(y, shrunk, b, aligned)


def pair_ids(ids: Tensor, adapters: Tensor, local: int) -> Tensor:
    """Return [T, k] int32: adapter * local + expert, or -1 without an adapter or an expert."""
    joined = adapters[:, None] * local + ids
    return torch.where((ids >= 0) & (adapters >= 0)[:, None], joined, -1).to(torch.int32)


def check(y: Tensor, x: Tensor, ids: Tensor, matrices: tuple[Tensor, Tensor]) -> None:
    """Raise MoEError for shapes or dtypes that do not fit each other."""
    a, b = matrices
    if a.shape[:4] != (*b.shape[:3], b.shape[4]):
        raise MoEError(
            f"A is {list(a.shape)} and B is {list(b.shape)}; adapters, experts, halves and rank "
            "must be the same in both"
        )
    if ids.numel() and (x.shape[1] < a.shape[4] or not len(x) or ids.numel() % len(x)):
        raise MoEError(
            f"x is {list(x.shape)}; A {list(a.shape)} and ids {list(ids.shape)} need rows for "
            "tokens or slots, of at least I columns"
        )
    if y.dtype != torch.float32 or y.shape[1] // a.shape[2] < b.shape[3]:
        raise MoEError(
            f"y is {list(y.shape)} of {y.dtype}; B {list(b.shape)} is added to float32 with at "
            "least O columns in each half"
        )


def _expand(y: Tensor, shrunk: Tensor, b: Tensor, aligned: Aligned) -> None:
    """Add shrunk [R, h * r] times B to y."""
    _, _, halves, out, rank = b.shape
    blocks = aligned.block_expert.numel()
    if not runs_kernels(y.device):  # on a CPU: no synchronisation, start no unused programs
        blocks = int(aligned.num_rows) // aligned.block_m
    columns = max(_LEAST, program_columns(out, limit=1024 if INTERPRETED else 64))
    launch(
        *(_expand_kernel, (blocks, triton.cdiv(out, columns), halves), y.device),
        *(shrunk, b.contiguous(), y, aligned.row_ids, aligned.block_expert, aligned.num_rows),
        *(len(y), out, y.shape[1] // halves),
        HALVES=halves,
        RANK=rank,
        WIDE=max(_LEAST, triton.next_power_of_2(rank)),
        BLOCK_M=aligned.block_m,
        BLOCK_N=columns,
    )


@triton.jit(do_not_specialize=("rows",))
def _expand_kernel(
    s_ptr, b_ptr, y_ptr, row_ids_ptr, block_pair_ptr, num_rows_ptr, rows, out, width,
    HALVES: tl.constexpr, RANK: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    block, half = tl.program_id(0), tl.program_id(2)
    if block * BLOCK_M >= tl.load(num_rows_ptr):
        return
    pair = tl.load(block_pair_ptr + block).to(tl.int64)
    row = tl.load(row_ids_ptr + block * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    real = row < rows
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = column < out
    r = tl.arange(0, WIDE)
    s_at = s_ptr + row[:, None] * (HALVES * RANK) + half * RANK + r[None, :]
    s = tl.load(s_at, mask=real[:, None] & (r < RANK)[None, :], other=0.0)
    b_row = (pair * HALVES + half) * out + column
    b_at = b_ptr + b_row[None, :] * RANK + r[:, None]
    b = tl.load(b_at, mask=inside[None, :] & (r < RANK)[:, None], other=0.0)
    added = tl.dot(s, b.to(tl.float32), input_precision="ieee")
    y_at = y_ptr + row[:, None] * (width * HALVES) + half * width + column[None, :]
    live = real[:, None] & inside[None, :]
    tl.store(y_at, tl.load(y_at, mask=live, other=0.0) + added, mask=live)


def add_lora_torch(
    y: Tensor, x: Tensor, chosen: tuple[Tensor, Tensor], matrices: tuple[Tensor, Tensor]
) -> None:
    """Compute the result of `add_lora` in torch, one pair of adapter and expert at a time."""
    ids, adapters = chosen
    check_ids("adapters", adapters, len(ids))
    check(y, x, ids, matrices)
    if ids.numel() == 0:
        return
    slots = ids.numel() // len(x)
    flat = adapters.repeat_interleave(ids.shape[1])
    add_adapted(y, x.repeat_interleave(slots, dim=0), (ids.reshape(-1), flat), matrices)
