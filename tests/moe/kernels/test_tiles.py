"""Block sizes: right for every layer, and sensible for the ones that matter."""

import dataclasses
import itertools

import pytest
import torch

from moe.formats import FORMATS
from moe.kernels import (
    activation,
    activation_quant,
    align,
    combine,
    place,
    put_back,
    quantize,
    quantize_groups,
    top_k,
)
from moe.kernels.launch import INTERPRETED
from moe.kernels.tiles import (
    FEW,
    block_rows,
    decoding_tile,
    gemm_tile,
    interpreted_tile,
    power_of_2,
    program_rows,
    tile_length,
)
from tests.moe.kernels.kernel_cases import same

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


def test_decoded_weights_have_two_stages_where_three_do_not_fit():
    stages = {
        kib: [
            decoding_tile(m, 4096, interpreted=False, shared_bytes=kib * _KIB).num_stages
            for m in (16, 32, 64, 128)
        ]
        for kib in (227, 163, 160, 99, 64)
    }
    assert stages == {kib: [3, 3, 3, 3] for kib in (227, 163, 160)} | {
        99: [3, 3, 3, 2],
        64: [3, 2, 2, 2],
    }


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
    decoded = {"interpreted": False, "shared_bytes": 227 * _KIB}
    assert decoding_tile(16, 1536, **decoded, blocks=8).block_n == 64
    assert decoding_tile(64, 4096, **decoded).block_n == 128
    assert decoding_tile(64, 4096, **decoded, has_sums=True).block_n == 64


def test_at_few_rows_steps_are_long_unless_only_shorter_ones_divide_the_rows():
    sizes = {"element_bytes": 2, "blocked": False, "shared_bytes": 227 * _KIB}
    assert gemm_tile(16, 2048, 2048, **sizes).block_k == 128
    assert gemm_tile(16, 2048, 2880, **sizes).block_k == 64
    assert gemm_tile(128, 2048, 2048, **sizes).block_k == 64


def test_a_chip_has_two_binaries_for_all_numbers_of_rows():
    """Each number of rows in a tile is a compile-time argument."""
    sizes = {program_rows(rows, 64, 4096, is_interpreted=False) for rows in range(5000)}
    assert sizes == {1, 64}
    assert program_rows(FEW, 64, 4096, is_interpreted=False) == 1
    assert program_rows(FEW + 1, 64, 4096, is_interpreted=False) == 64
    assert program_rows(100, 8192, 4096, is_interpreted=False) == 1
    lengths = {tile_length(n, 1024, few=FEW, is_interpreted=False) for n in range(5000)}
    assert lengths == {FEW, 1024}


def test_the_interpreter_computes_no_more_rows_than_there_are():
    for rows, wanted in ((0, 1), (1, 1), (5, 8), (64, 64), (5000, 64)):
        assert program_rows(rows, 64, 4096, is_interpreted=True) == wanted


def calls(tokens):
    """Return name -> (kernel, twin, arguments, options): kernels whose tiles follow the rows."""
    torch.manual_seed(tokens)
    x = torch.randn(tokens, 160).bfloat16()
    ids = torch.randint(-1, 5, (tokens, 2), dtype=torch.int32)
    weights, of_slots = torch.rand(tokens, 2), x.repeat_interleave(2, dim=0)
    position = torch.arange(2 * tokens, dtype=torch.int32).view(2, tokens) % tokens
    way = (of_slots, position, torch.tensor([0, tokens]))
    relu2 = {"activation": "relu2"}  # exact in kernel and twin
    fp8 = {"kind": "fp8", "group": 128}
    return {
        "align": (align.align_tokens, align.align_tokens_torch, (ids, 5, 16), {}),
        "combine": (combine.combine, combine.combine_torch, (of_slots, weights, ids), {}),
        "place": (place.place, place.place_torch, (ids, torch.ones(2, 5, dtype=torch.uint8)), {}),
        "amax": (quantize.tensor_scale, quantize.tensor_scale_torch, (of_slots, ids, "fp8"), {}),
        "rows": (quantize.quantize_rows, quantize.quantize_rows_torch, (x,), fp8),
        "groups": (
            *(quantize_groups.quantize_groups, quantize_groups.quantize_groups_torch),
            *((x, FORMATS["mxfp8"]), {}),
        ),
        "top_k": (*map(ids_of, (top_k.top_k_routing, top_k.top_k_routing_torch)), (x[:, :8],), {}),
        "add": (put_back.add_parts, put_back.add_parts_torch, way, {}),
        "activate": (activation.activate, activation.activate_torch, (of_slots,), relu2),
        "activate_quantize": (
            *(activation_quant.activate_quantize, activation_quant.activate_quantize_torch),
            *((of_slots,), relu2 | fp8),
        ),
    }


def ids_of(do):
    """Return a function of logits: weights have exponentials, which differ in the last bit."""
    return lambda logits: do(logits, 2, "sigmoid", renormalize=False).topk_ids


def tensors_of(result):
    values = result if isinstance(result, tuple) else [result]
    if dataclasses.is_dataclass(result):
        values = vars(result).values()
    return [value for value in values if isinstance(value, torch.Tensor)]


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU each kernel's own test has a chip's tiles")
@pytest.mark.parametrize("tokens", [3, 45])
def test_a_chips_tiles_give_what_the_twins_give(tokens, monkeypatch):
    """Interpreted: one program for a row, and tiles most of which is masked."""
    modules = (activation, activation_quant, align, combine, place, put_back)
    for module in (*modules, quantize, quantize_groups, top_k):
        monkeypatch.setattr(module, "INTERPRETED", False)
    for name, (kernel, twin, arguments, options) in calls(tokens).items():
        got, wanted = (tensors_of(do(*arguments, **options)) for do in (kernel, twin))
        assert len(got) == len(wanted) > 0, name
        assert all(map(same, got, wanted)), name
