"""Marlin's order: back to the same bits, where an element goes, and as vLLM's own functions do."""

import pytest
import torch

from moe import marlin_layout as layout
from moe.errors import MoEError
from moe.formats.nibbles import unpack

SHAPES = [(64, 16), (128, 256), (192, 384)]


def codes(bits, rows, columns):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 2**bits, (2, rows, columns), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("bits", [4, 8])
def test_there_and_back_are_the_same_codes(bits):
    for rows, columns in SHAPES:
        given = codes(bits, rows, columns)
        tiles = layout.tiled(given, bits)
        assert (tiles.dtype, tiles.shape) == (torch.int32, (2, columns // 16, rows * bits // 2))
        assert torch.equal(layout.untiled(tiles, bits), given)
        assert not torch.equal(tiles.view(torch.uint8).flatten(), given.flatten())
        alone = layout.tiled(given[1:], bits)
        assert torch.equal(tiles[1:], alone), "experts are independent"


def test_scales_and_zero_points_come_back():
    given = codes(4, 128, 6)
    for there, back in (
        (layout.scales_by_group, layout.scales_by_row),
        (layout.powers_by_group, layout.powers_by_row),
        (layout.zero_points_by_group, layout.zero_points_by_row),
    ):
        assert torch.equal(back(there(given)), given)
        assert there(given).shape[:2] == (2, 6)


def test_where_an_element_goes():
    """Of a tile of 64 rows, each of whose rows has a code of its own in every column."""
    rows = torch.arange(64, dtype=torch.uint8)[None, :, None].expand(1, 64, 16)
    flat = layout.tiled(rows.contiguous(), 8).view(torch.uint8).flatten().tolist()
    assert flat[:8] == [0, 0, 0, 0, 8, 8, 8, 8], "row 0 of four columns, then row 8"
    assert flat[8:16] == [16] * 4 + [24] * 4
    columns = torch.arange(16, dtype=torch.uint8).repeat(1, 64, 1)
    flat = layout.tiled(columns.contiguous(), 8).view(torch.uint8).flatten().tolist()
    assert flat[:4] == [0, 8, 1, 9]
    nibbles = (layout.tiled(t, 4).view(torch.uint8) for t in (rows // 8, columns))
    of_four_bits = [unpack(t).flatten() for t in nibbles]
    assert [t[:8].tolist() for t in of_four_bits] == [[0, 0, 1, 1] * 2, [0, 8] * 2 + [1, 9] * 2]
    scales = layout.scales_by_group(torch.arange(64)[None, :, None].expand(1, 64, 2))
    assert scales[0, 0, :9].tolist() == [0, 8, 16, 24, 32, 40, 48, 56, 1]
    powers = layout.powers_by_group(torch.arange(64)[None, :, None].expand(1, 64, 2))
    assert powers[0, 0, :4].tolist() == [0, 16, 8, 24]


@pytest.mark.parametrize("shape", [(1, 32, 16), (1, 64, 24)])
def test_sizes_that_are_not_whole_tiles_are_named(shape):
    with pytest.raises(MoEError, match="tiles of 64 rows and 16 columns; pad them"):
        layout.tiled(torch.zeros(shape, dtype=torch.uint8), 4)


# --- beside vLLM's own functions, where its package is installed


@pytest.fixture(scope="module")
def vllm():
    path = "vllm.model_executor.layers.quantization.utils"
    names = ("marlin_utils", "marlin_utils_fp4", "marlin_utils_test")
    reason = "vllm is not installed"
    return [pytest.importorskip(f"{path}.{name}", reason=reason) for name in names]


@pytest.mark.parametrize("bits", [4, 8])
def test_tiles_are_vllms(vllm, bits):
    theirs = vllm[2]
    for rows, columns in SHAPES[1:]:
        given, order = codes(bits, rows, columns), theirs.get_weight_perm(bits)
        expected = [theirs.marlin_weights(w.T.int(), columns, rows, bits, order) for w in given]
        assert torch.equal(layout.tiled(given, bits), torch.stack(expected))


def test_scales_and_zero_points_are_vllms(vllm):
    utils, fp4, _ = vllm
    scales = torch.randn(128, 4).bfloat16()
    expected = utils.marlin_permute_scales(scales.T.contiguous(), 256, 128, 64)
    assert torch.equal(layout.scales_by_group(scales[None])[0], expected)
    zeros = codes(4, 128, 4)[0]
    expected = utils.marlin_zero_points(zeros.T.contiguous().int(), 4, 128, 4)
    assert torch.equal(layout.zero_points_by_group(zeros[None])[0], expected)
    powers = codes(4, 128, 8)[0] + 120
    values = powers.view(torch.float8_e8m0fnu).bfloat16().T.contiguous()
    permuted = utils.marlin_permute_scales(values, 256, 128, 32)
    expected = fp4.mxfp4_marlin_process_scales(permuted).view(torch.uint8)
    assert torch.equal(layout.powers_by_group(powers[None])[0], expected)
