"""The order of tiles: each once, and row blocks of a group before the next column."""

import pytest
import torch
import triton
import triton.language as tl

from moe.kernels.launch import launch
from moe.kernels.schedule import tile_of


@triton.jit
def _order(out_ptr, tiles, blocks, GROUP_M: tl.constexpr):
    block, tile = tile_of(tiles, blocks, GROUP_M)
    tl.store(out_ptr + 2 * tl.program_id(0), block)
    tl.store(out_ptr + 2 * tl.program_id(0) + 1, tile)


def order(tiles, blocks, group_m, device):
    out = torch.full((blocks * tiles, 2), -1, dtype=torch.int32, device=device)
    launch(_order, (blocks * tiles,), device, out, tiles, blocks, GROUP_M=group_m)
    return [tuple(pair) for pair in out.tolist()]


@pytest.mark.parametrize("group_m", [1, 2, 8])
def test_each_tile_has_one_program(group_m, kernel_device):
    places = order(3, 5, group_m, kernel_device)
    assert sorted(places) == [(block, tile) for block in range(5) for tile in range(3)]


def test_the_row_blocks_of_a_group_come_before_the_next_column(kernel_device):
    assert order(2, 3, 2, kernel_device) == [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
