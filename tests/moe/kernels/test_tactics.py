"""Tactics are the tiles that plans of products pick, and a case that names one gets it."""

import itertools

import pytest

from moe.kernels.tactics import forced_tile, names
from moe.kernels.tiles import decoding_tile, gemm_tile
from moe.spec import LayerSpec, Scheme

_KIB = 1024
PLAIN = Scheme(weights="model", activations="model")
BLOCKED = Scheme(weights="fp8_block", activations="fp8_group")
CODES = Scheme(weights="int8_channel", activations="int8_token")
DECODED = Scheme(weights="int4_g32", activations="model")


def spec(scheme=PLAIN, **fields):
    sizes = {"m": 8, "hidden": 64, "intermediate": 64, "num_experts": 4, "top_k": 2}
    return LayerSpec(**sizes, scheme=scheme, **fields)


def name_of(tile):
    return f"m{tile.block_m}n{tile.block_n}k{tile.block_k}"


@pytest.mark.parametrize(
    ("scheme", "element", "blocked", "count"),
    [(PLAIN, 2, False, 18), (BLOCKED, 1, True, 12), (CODES, 1, False, 12)],
)
def test_each_tile_that_is_picked_for_a_product_has_a_name(scheme, element, blocked, count):
    picked = {
        name_of(gemm_tile(*sizes, element, blocked=blocked, shared_bytes=limit, blocks=blocks))
        for *sizes, limit, blocks in itertools.product(
            *((16, 32, 64, 128), (16, 33, 64, 96, 200, 4096), (32, 64, 96, 128, 2880, 7168)),
            *((227 * _KIB, 163 * _KIB, 160 * _KIB, 99 * _KIB, 64 * _KIB), (1, 7, 300, None)),
        )
    }
    assert picked == set(names(spec(scheme)))
    assert len(picked) == count


def test_each_tile_of_decoded_weights_has_a_name():
    picked = {
        name_of(
            decoding_tile(
                *(m, out),
                interpreted=False,
                shared_bytes=limit,
                blocks=blocks,
                has_sums=has_sums,
            )
        )
        for m, out, limit, blocks, has_sums in itertools.product(
            *((16, 32, 64, 128), (16, 33, 200, 4096), (227 * _KIB, 64 * _KIB)),
            *((1, 7, None), (False, True)),
        )
    }
    assert picked == set(names(spec(DECODED)))


def test_a_forced_tile_has_its_sizes_and_no_more_stages_than_fit():
    for name, limit in itertools.product(names(spec()), (227 * _KIB, 64 * _KIB)):
        tile = forced_tile(spec(tactic=name), limit)
        assert (name_of(tile), tile.shared_bytes(2) <= limit) == (name, True)
    largest = spec(tactic="m128n128k64")
    assert forced_tile(largest, 227 * _KIB).num_stages == 3
    assert forced_tile(largest, 64 * _KIB).num_stages == 2
