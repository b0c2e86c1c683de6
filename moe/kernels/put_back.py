"""Put partial sums back into the memory of their tokens' ranks, and add what arrived.

The way back of `moe.kernels.put`: `put_back` writes each row to the rank that it came from, and
`add_parts` adds a token's rows in float32, in the order of the ranks that computed them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels import rounding
from moe.kernels.arguments import check_matrix
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.tiles import program_columns, program_rows, program_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WayBack:
    """Say which rows go back to which rank.

    addresses: [S] int64, of each rank's buffer. came, returns: [S] int64, the first row that came
    from a rank, and its first row in that rank's buffer. limits: [S] int64, rows from each.
    longest: the largest of them. Rows whose token is -1 stay here.
    """

    addresses: Tensor
    came: Tensor
    returns: Tensor
    limits: Tensor
    longest: int


def _tile() -> int:
    """Return the elements that one program handles."""
    return program_size(1024, 1 << 17, is_interpreted=INTERPRETED)


def put_back(words: Tensor, tokens: Tensor, way: WayBack) -> None:
    """Write each row of words [G, B] into the buffer of the rank that it came from.

    tokens: [G] int32, -1 for rows that nobody sent. Raises MoEError for shapes that do not fit.
    """
    _check_way(words, tokens, way)
    ranks, width = len(way.came), words.shape[1]
    columns = program_columns(width)
    tile = program_rows(way.longest, columns, _tile(), is_interpreted=INTERPRETED)
    grid = (ranks * triton.cdiv(way.longest, tile), triton.cdiv(width, columns))
    launch(
        *(_put_back, grid, words.device),
        *(words, tokens, way.addresses, way.came, way.returns, way.limits, width, ranks),
        ROWS=tile,
        WIDE=columns,
    )


def _check_way(words: Tensor, tokens: Tensor, way: WayBack) -> None:
    if words.ndim != 2 or len(tokens) != len(words):
        raise MoEError(
            f"words is {list(words.shape)} and tokens {list(tokens.shape)}; they must be [G, B] "
            "and [G]: one token, or -1, for each row"
        )
    lengths = {len(t) for t in (way.addresses, way.came, way.returns, way.limits)}
    if len(lengths) > 1:
        raise MoEError(f"addresses and rows of a way back have lengths {sorted(lengths)}, not [S]")


@triton.jit
def _put_back(
    words_ptr, token_ptr, addresses, here_ptr, there_ptr, limit_ptr, width, ranks,
    ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    rank = tl.program_id(0) % ranks  # neighbours write to different ranks, as in `put_rows`
    line = (tl.program_id(0) // ranks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    real = line < tl.load(limit_ptr + rank)
    row = tl.load(here_ptr + rank) + line
    used = tl.load(token_ptr + row, mask=real, other=-1) >= 0
    live = used[:, None] & (column < width)[None, :]
    value = tl.load(words_ptr + row[:, None] * width + column[None, :], mask=live)
    target = tl.load(addresses + rank).to(words_ptr.dtype)
    target = tl.multiple_of(target, 16)
    row = tl.load(there_ptr + rank) + line
    tl.store(target + row[:, None] * width + column[None, :], value, mask=live)


def put_back_torch(words: Tensor, tokens: Tensor, way: WayBack, buffers: Sequence[Tensor]) -> None:
    """Do in torch what `put_back` does. buffers: [rows, B] of each rank, for its address."""
    _check_way(words, tokens, way)
    for rank, buffer in enumerate(buffers):
        begin, target = int(way.came[rank]), int(way.returns[rank])
        for i in range(int(way.limits[rank])):
            if tokens[begin + i] >= 0:
                buffer[target + i] = words[begin + i]


def add_parts(parts: Tensor, position: Tensor, starts: Tensor) -> Tensor:
    """Return [T, K], the sum of each token's rows in float32 in rank order, rounded once.

    parts: [rows, K], what came back. position: [S, T] int32, the number of a token among those that
    went to a rank, -1 = it did not. starts: [S] int64, first row of each rank's part. A token that
    went nowhere gets zeros. Raises MoEError for shapes that do not fit each other.
    """
    _check_parts(parts, position, starts)
    ranks, tokens = position.shape
    hidden = parts.shape[1]
    out = guarded_buffers.empty((tokens, hidden), dtype=parts.dtype, device=parts.device)
    columns = program_columns(hidden)
    tile = program_rows(tokens, columns, _tile(), is_interpreted=INTERPRETED)
    launch(
        *(_add, (triton.cdiv(tokens, tile), triton.cdiv(hidden, columns)), parts.device),
        *(parts, position, starts, out, tokens, hidden),
        RANKS=ranks,
        ROWS=tile,
        WIDE=columns,
    )
    return out


def _check_parts(parts: Tensor, position: Tensor, starts: Tensor) -> None:
    check_matrix("parts", parts)
    if len(starts) != len(position):
        raise MoEError(f"starts has {len(starts)} entries, and position {len(position)} ranks")


@triton.jit(do_not_specialize=("tokens",))
def _add(
    parts_ptr, position_ptr, start_ptr, out_ptr, tokens, hidden,
    RANKS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    inside = (column < hidden)[None, :]
    total = tl.zeros([ROWS, WIDE], tl.float32)
    for rank in range(RANKS):
        line = tl.load(position_ptr + rank * tokens + token, mask=token < tokens, other=-1)
        row = tl.load(start_ptr + rank) + line
        at = row[:, None] * hidden + column[None, :]
        part = tl.load(parts_ptr + at, mask=(line >= 0)[:, None] & inside, other=0.0)
        total += part.to(tl.float32)
    value = rounding.to_model_dtype(total, out_ptr.dtype.element_ty)
    at = token[:, None] * hidden + column[None, :]
    tl.store(out_ptr + at, value, mask=(token < tokens)[:, None] & inside)


def add_parts_torch(parts: Tensor, position: Tensor, starts: Tensor) -> Tensor:
    """Compute the result of `add_parts` in torch."""
    _check_parts(parts, position, starts)
    total = torch.zeros((position.shape[1], parts.shape[1]), device=parts.device)
    for rank, numbers in enumerate(position):
        goes = numbers >= 0
        total[goes] += parts[starts[rank] + numbers[goes].long()].float()
    return total.to(parts.dtype)
