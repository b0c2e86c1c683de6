"""Choose how much a program of a kernel computes from the shape, without tuning at run time.

In the interpreter a program takes about a millisecond whatever its size, so that its tiles are
large, and a small layer is one tile. Inside `small_tiles` even a small layer is many.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moe.spec import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moe.formats.format import Format

_SMALL_ELEMENTS = 256
# Row blocks after which programs go to the next column: those of one expert then share its weights
# in the L2 cache.
_GROUP_M = 8
_PROGRAMS = 264  # two for each multiprocessor of an H100
FEW = 16  # sizes up to this share a chip's binaries, and so do all larger ones
_are_small = False


@contextmanager
def small_tiles() -> Iterator[None]:
    """Let programs compute small tiles, so that small layers have many. Not thread-safe."""
    global _are_small
    before, _are_small = _are_small, True
    try:
        yield
    finally:
        _are_small = before


def program_size(
    compiled: int, interpreted: int, *, is_interpreted: bool, small: int = _SMALL_ELEMENTS
) -> int:
    """Return how many elements one program handles; each argument is a power of two.

    small: inside `small_tiles`, compiled or interpreted.
    """
    if _are_small:
        return small
    return interpreted if is_interpreted else compiled


@dataclass(frozen=True, kw_only=True)
class Tile:
    """The block that a program of the grouped GEMM computes, and the resources it uses."""

    block_m: int  # rows of one expert; equal to `Aligned.block_m`
    block_n: int  # output columns
    block_k: int  # inner elements for each step
    group_m: int  # number of row blocks after which programs go to the next column of weights
    num_warps: int
    num_stages: int

    def shared_bytes(self, element_bytes: int) -> int:
        """Return the shared memory in bytes for the operands of all stages."""
        return (self.block_m + self.block_n) * self.block_k * element_bytes * self.num_stages


def program_columns(columns: int, limit: int = 1024) -> int:
    """Return how many columns one program handles, a power of two: all of them, up to `limit`."""
    return min(power_of_2(columns), 64 if _are_small else limit)


def tile_length(length: int, limit: int, *, few: int, is_interpreted: bool) -> int:
    """Return how many of `length` rows one program handles, a power of two; all: up to `limit`.

    few: on a chip, for a length of at most FEW. A greater one gets `limit` there, and what is too
    many is masked: each other value would be a binary of its own, and compiling takes a second.
    The interpreter, whose programs cost by their elements, gets no more rows than there are.
    """
    if is_interpreted:
        return min(power_of_2(max(length, 1)), limit)
    return min(few, limit) if length <= FEW else limit


def program_rows(rows: int, columns: int, size: int, *, is_interpreted: bool) -> int:
    """Return how many rows of `columns` elements one program handles, of at most about `size`.

    A chip gets a program for each of few rows: they run side by side.
    """
    limit = max(1, size // columns)
    return tile_length(rows, limit, few=1, is_interpreted=is_interpreted)


def is_decoded(fmt: Format) -> bool:
    """Return whether a product decodes an operand of this format: its scales belong to groups."""
    return fmt.group is not None and (
        fmt.packing > 1 or fmt.group < BLOCK or fmt.bottom is not None
    )


def power_of_2(size: int) -> int:
    """Return the smallest power of two that is at least `size` (1 for 0)."""
    return 1 << max(size - 1, 0).bit_length()


def block_rows(rows: int, experts: int, *, interpreted: bool) -> int:
    """Return block_m for `rows` (token, slot) pairs: about the rows of one of `experts`.

    Larger blocks add padding; smaller blocks read the weights more often.
    """
    if _are_small:
        return 16  # of the smallest product
    rows_per_expert = power_of_2(-(-rows // max(experts, 1)))
    return min(max(rows_per_expert, 16), 512 if interpreted else 128)


def gemm_tile(
    block_m: int,
    out: int,
    inner: int,
    element_bytes: int,
    *,
    blocked: bool,
    shared_bytes: int,
    blocks: int | None = None,
) -> Tile:
    """Return the tile of a product [block_m, inner] x [inner, out] on a device.

    element_bytes: of an element of the wider operand. blocked: scales change every 128 inner
    elements, so that a step is one block of scales. shared_bytes: available to a program. blocks:
    of rows, about; None: many.
    """
    if _are_small:
        return _small_tile(block_m, blocked=blocked)
    # At few rows reading weights takes the time, and long parts of their rows are read fastest.
    is_long = block_m <= 32 and (inner % BLOCK == 0 or inner % (BLOCK // 2) > 0)
    is_wide = element_bytes > 1
    tile = Tile(
        block_m=block_m,
        block_n=_columns(out, blocks),
        block_k=BLOCK if blocked or is_long or not is_wide else BLOCK // element_bytes,
        group_m=_GROUP_M,
        num_warps=8 if block_m > 64 and (blocked or is_wide) else 4,
        num_stages=4 if block_m == 64 and not is_wide else 3,
    )
    while tile.shared_bytes(element_bytes) > shared_bytes and tile.num_stages > 1:
        if tile.num_stages == 2 and tile.block_k > 32 and not blocked:
            tile = replace(tile, block_k=tile.block_k // 2)
        else:
            tile = replace(tile, num_stages=tile.num_stages - 1)
    return tile


def interpreted_tile(block_m: int, out: int, inner: int, *, blocked: bool) -> Tile:
    """Return a tile for the interpreter: large, as each program takes about a millisecond."""
    if _are_small:
        return _small_tile(block_m, blocked=blocked)
    return Tile(
        block_m=block_m,
        block_n=min(power_of_2(max(out, 16)), 1024),
        block_k=BLOCK if blocked else min(power_of_2(max(inner, 16)), 1024),
        group_m=1,
        num_warps=4,
        num_stages=1,
    )


def decoding_tile(
    block_m: int,
    out: int,
    *,
    interpreted: bool,
    shared_bytes: int,
    blocks: int | None = None,
    has_sums: bool = False,
) -> Tile:
    """Return the tile of a product whose weights are decoded as they are loaded.

    Its steps are those of the arranged weights, whatever block_k is. shared_bytes, blocks: as in
    `gemm_tile`. has_sums: whether a step has several sums with a scale each, which take registers.
    """
    if _are_small:
        return _small_tile(block_m, blocked=False)
    if interpreted:
        return interpreted_tile(block_m, out, BLOCK, blocked=True)
    tile = Tile(
        block_m=block_m,
        block_n=min(_columns(out, blocks), 64 if has_sums and block_m > 32 else 128),
        block_k=BLOCK,
        group_m=_GROUP_M,
        num_warps=4 if block_m <= 64 else 8,
        num_stages=3,
    )
    # A stage has rows of 16 bits and codes of at most 8. Two stages fit everywhere: Triton keeps
    # one of them in registers on gfx942, the only chip where two would be too many.
    stage = (2 * tile.block_m + tile.block_n) * tile.block_k
    return tile if 3 * stage <= shared_bytes else replace(tile, num_stages=2)


def _columns(out: int, blocks: int | None) -> int:
    """Return block_n: 128, or 64 where this leaves multiprocessors without a program."""
    is_scarce = blocks is not None and blocks * out < _PROGRAMS * 128
    return min(64 if is_scarce else 128, power_of_2(max(out, 32)))


def _small_tile(block_m: int, *, blocked: bool) -> Tile:
    """Return a tile with which a product of 64 x 64 has several tiles, steps and groups."""
    return Tile(
        block_m=block_m,
        block_n=BLOCK if blocked else 32,
        block_k=BLOCK if blocked else 32,
        group_m=2,
        num_warps=4,
        num_stages=2,
    )
