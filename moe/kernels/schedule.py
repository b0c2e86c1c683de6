"""Share what grouped GEMMs do beside the sum: the order of tiles, and the bias.

Tiles are assigned to programs in an order that keeps weights in the cache.
"""

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


@triton.jit
def with_bias(result, bias_ptr, expert, column, out):
    """Return the tile float32 [BLOCK_M, BLOCK_N] plus the bias of its columns, if there is one."""
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + expert * out + column, mask=column < out, other=0.0)
        result += bias.to(tl.float32)[None, :]
    return result
