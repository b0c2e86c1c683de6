"""Assign the tiles of a grouped GEMM to programs in an order that keeps weights in the cache."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_of(tiles, blocks, GROUP_M: tl.constexpr):
    """Return this program's (block of rows, column): GROUP_M blocks, then the next column."""
    program = tl.program_id(0)
    group = program // (GROUP_M * tiles)
    first = group * GROUP_M
    deep = tl.minimum(blocks - first, GROUP_M)
    inside = program % (GROUP_M * tiles)
    return first + inside % deep, inside // deep
