"""Block sizes: right for every layer, and sensible for the ones that matter."""

import itertools

import pytest

from moe.kernels.tiles import block_rows, decoding_tile, gemm_tile, interpreted_tile, power_of_2

_KIB = 1024


@pytest.mark.parametrize(
    ("size", "wanted"), [(0, 1), (1, 1), (2, 2), (3, 4), (128, 128), (129, 256)]
)
def test_power_of_2(size, wanted):
    assert power_of_2(size) == wanted


@pytest.mark.parametrize(
    ("rows", "experts", "wanted"),
    [(2, 8, 16), (128, 128, 16), (512, 8, 64), (520, 8, 128), (131072, 128, 128), (5, 0, 16)],
)
def test_blocks_are_about_the_rows_of_an_expert(rows, experts, wanted):
    assert block_rows(rows, experts, interpreted=False) == wanted


def test_interpreted_blocks_may_be_larger():
    assert block_rows(2048, 4, interpreted=True) == 512


@pytest.mark.parametrize("shared_bytes", [227 * _KIB, 163 * _KIB, 160 * _KIB, 99 * _KIB, 64 * _KIB])
def test_every_tile_is_legal_and_fits(shared_bytes):
    sizes = ((16, 32, 64, 128), (32, 200, 4096), (64, 7168), (1, 2, 4), (False, True))
    for block_m, out, inner, element, blocked in itertools.product(*sizes):
        if blocked and element != 1:
            continue
        tile = gemm_tile(block_m, out, inner, element, blocked=blocked, shared_bytes=shared_bytes)
        assert tile.block_m == block_m
        assert tile.shared_bytes(element) <= shared_bytes
        assert tile.num_stages >= 2, "loads would not overlap with the product"
        assert {tile.block_n & (tile.block_n - 1), tile.block_k & (tile.block_k - 1)} == {0}
        assert tile.block_n >= 16
        assert tile.block_k >= 32
        assert not blocked or tile.block_k == 128


def test_less_shared_memory_means_fewer_stages():
    large = gemm_tile(128, 4096, 4096, 2, blocked=False, shared_bytes=227 * _KIB)
    small = gemm_tile(128, 4096, 4096, 2, blocked=False, shared_bytes=64 * _KIB)
    assert (large.num_stages, small.num_stages) == (3, 2)


def test_an_interpreted_tile_covers_the_problem():
    tile = interpreted_tile(32, 512, 200, blocked=False)
    assert (tile.block_n, tile.block_k) == (512, 256)
    assert interpreted_tile(32, 512, 200, blocked=True).block_k == 128
    assert interpreted_tile(32, 1 << 20, 1 << 20, blocked=False).block_n == 1024


def test_few_blocks_of_rows_have_narrower_tiles_and_more_programs():
    sizes = {"blocked": False, "shared_bytes": 227 * _KIB}
    assert gemm_tile(16, 1536, 2048, 2, **sizes).block_n == 128
    assert gemm_tile(16, 1536, 2048, 2, blocks=8, **sizes).block_n == 64
    assert gemm_tile(16, 28672, 4096, 2, blocks=8, **sizes).block_n == 128
    assert decoding_tile(16, 1536, interpreted=False, blocks=8).block_n == 64
    assert decoding_tile(64, 4096, interpreted=False).block_n == 128
    assert decoding_tile(64, 4096, interpreted=False, has_sums=True).block_n == 64


def test_at_few_rows_steps_are_long_unless_only_shorter_ones_divide_the_rows():
    sizes = {"element_bytes": 2, "blocked": False, "shared_bytes": 227 * _KIB}
    assert gemm_tile(16, 2048, 2048, **sizes).block_k == 128
    assert gemm_tile(16, 2048, 2880, **sizes).block_k == 64
    assert gemm_tile(128, 2048, 2048, **sizes).block_k == 64
