"""Conversions of weights: back again to the bit, and as the vendors' own functions do."""

import pytest
import torch

from moe import conversions as c
from moe.errors import MoEError

DTYPES = (torch.bfloat16, torch.uint8, torch.float8_e4m3fn)


def weights(dtype, rows=128, columns=256, experts=3):
    torch.manual_seed(0)
    codes = torch.randint(0, 120, (experts, rows, columns), dtype=torch.uint8)
    return codes.view(dtype) if dtype.itemsize == 1 else codes.to(dtype)


def bits(w):
    return w.contiguous().view(torch.uint8)


PAIRS = {
    "halves": (c.halves_swapped, c.halves_swapped),
    "interleaved": (c.interleaved, c.deinterleaved),
    "shuffled": (c.shuffled_rows, c.unshuffled_rows),
    "block major": (lambda w: c.block_major(w, 128), c.row_major),
    "tiled": (c.tiled, c.untiled),
    "scales by tile": (c.scales_by_tile, lambda w: c.scales_by_row(w, 128, 256)),
    "scales by four": (c.scales_by_four, c.scales_from_fours),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", list(PAIRS))
def test_there_and_back_are_the_same_bits_and_there_is_another_order(name, dtype):
    there, back = PAIRS[name]
    w = weights(dtype)
    converted = there(w)
    assert converted.dtype == dtype
    assert converted.numel() == w.numel()
    assert torch.equal(bits(back(converted)), bits(w))
    assert not torch.equal(bits(converted).flatten(), bits(w).flatten())
    assert torch.equal(bits(converted[1]), bits(there(w[1:2])[0])), "experts are independent"


def rows(order):
    return torch.tensor(order)[:, None].expand(-1, 2)


def test_where_each_row_goes():
    assert c.halves_swapped(rows([0, 1, 2, 3]))[:, 0].tolist() == [2, 3, 0, 1]
    assert c.interleaved(rows([0, 1, 2, 3, 4, 5]))[:, 0].tolist() == [0, 3, 1, 4, 2, 5]
    moved = c.shuffled_rows(rows(range(64)))[:, 0].tolist()
    assert moved[:9] == [0, 4, 8, 12, 16, 20, 24, 28, 1]
    assert moved[32:34] == [32, 36]


def test_where_each_element_of_a_tile_goes():
    w = torch.arange(16 * 32).view(1, 16, 32).to(torch.int16)
    flat = c.tiled(w).flatten().tolist()
    assert flat[:8] == list(range(8))
    assert flat[8:16] == list(range(32, 40)), "then the same columns of the next row"
    assert flat[128:136] == list(range(8, 16)), "then the next columns"


def test_where_a_scale_of_a_tile_goes_and_what_is_padded():
    scales = torch.arange(130 * 5, dtype=torch.int32).reshape(1, 130, 5).to(torch.uint8)
    tiles = c.scales_by_tile(scales)
    assert tiles.shape == (1, 256, 8)
    flat = tiles.flatten()
    assert flat[:4].tolist() == scales[0, 0, :4].tolist(), "four groups of row 0"
    assert flat[4:8].tolist() == scales[0, 32, :4].tolist(), "then of row 32"
    assert flat[16:20].tolist() == scales[0, 1, :4].tolist()
    assert flat[512:516].tolist() == [scales[0, 0, 4], 0, 0, 0], "the next tile of groups"
    assert torch.equal(c.scales_by_row(tiles, 130, 5), scales)
    fours = c.scales_by_four(scales[:, :2, :4])
    assert fours.tolist() == [[[*range(4), *range(5, 9)]]]


def test_ids_and_weights_share_an_integer():
    ids = torch.tensor([[0, 511], [32767, 3]], dtype=torch.int32)
    given = torch.tensor([[0.5, -1.0], [1.0, 0.15625]])
    packed = c.packed_routing(ids, given)
    assert packed[0, 0] == 0x3F00
    assert packed[0, 1] == (511 << 16) | 0xBF80
    got_ids, got = c.unpacked_routing(packed)
    assert torch.equal(got_ids, ids)
    assert torch.equal(got.float(), given)


@pytest.mark.parametrize(
    ("function", "shape", "text"),
    [
        (c.halves_swapped, (2, 3, 4), r"\[2, 3, 4\] do not consist of two halves"),
        (c.interleaved, (3, 4), "two halves: the number of rows must be a multiple of 2"),
        (c.shuffled_rows, (48, 4), "groups of 32 rows: the number of rows must be a multiple"),
        (lambda w: c.block_major(w, 128), (4, 192), "blocks of 128 columns; pad them"),
        (c.tiled, (17, 32), "tiles of 16 rows"),
        (c.tiled, (16, 40), "blocks of 32 columns"),
    ],
)
def test_sizes_that_do_not_fit_are_named(function, shape, text):
    with pytest.raises(MoEError, match=text):
        function(torch.zeros(shape))


# --- beside FlashInfer's own functions, where its package is installed


@pytest.fixture(scope="module")
def flashinfer():
    core = pytest.importorskip("flashinfer.fused_moe.core", reason="flashinfer is not installed")
    utils = pytest.importorskip("flashinfer.utils", reason="flashinfer is not installed")
    return core, utils


def test_interleaved_rows_are_flashinfers(flashinfer):
    core, _ = flashinfer
    w = weights(torch.bfloat16)[0]
    assert torch.equal(c.interleaved(w), core.reorder_rows_for_gated_act_gemm(w))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shuffled_rows_are_flashinfers(flashinfer, dtype):
    core, utils = flashinfer
    w = weights(dtype)[0]
    order = utils.get_shuffle_matrix_a_row_indices(w, epilogue_tile_m=128)
    assert torch.equal(bits(c.shuffled_rows(w)), bits(w)[order])
    chained = core._maybe_get_cached_w3_w1_permute_indices({}, w, 128)
    assert torch.equal(bits(c.shuffled_rows(c.interleaved(w))), bits(w)[chained])


def test_block_major_is_flashinfers(flashinfer):
    core, _ = flashinfer
    w = weights(torch.uint8)[0]
    assert torch.equal(c.block_major(w, 128), core.convert_to_block_layout(w, 128))


def test_scales_by_four_are_flashinfers(flashinfer):
    core, _ = flashinfer
    scales = weights(torch.uint8, columns=8)
    expected = core.interleave_moe_scales_for_sm90_mixed_gemm(scales)
    assert torch.equal(c.scales_by_four(scales), expected)


def test_scales_by_tile_are_vllms(monkeypatch):
    path = "vllm.model_executor.layers.quantization.utils.nvfp4_utils"
    theirs = pytest.importorskip(path, reason="vllm is not installed")
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)  # all it wants of a GPU
    scales = weights(torch.float8_e4m3fn, rows=200, columns=6)
    assert torch.equal(bits(c.scales_by_tile(scales)), bits(theirs.swizzle_blockscale(scales)))


def test_tiles_are_aiters():
    shuffle = pytest.importorskip("aiter.ops.shuffle", reason="amd-aiter is not installed")
    w = weights(torch.bfloat16)
    assert torch.equal(c.tiled(w), shuffle.shuffle_weight(w, layout=(16, 16)))
