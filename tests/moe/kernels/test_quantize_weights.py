"""Quantizers of weights: by hand, kernel against twin bit by bit, and against the codec."""

import dataclasses

import pytest
import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor, dequantize
from moe.kernels.quantize_weights import (
    moe_quantize_weights,
    moe_quantize_weights_2d,
    moe_quantize_weights_2d_torch,
    moe_quantize_weights_torch,
    scale_of,
)
from tests.moe.kernels.kernel_cases import same
from tests.moe.quant.hand_made import bits, matrix

FP8, INT8, FNUZ = FORMATS["fp8_tensor"], FORMATS["int8_channel"], FORMATS["fp8_fnuz_tensor"]
GRIDS = pytest.mark.parametrize("grid", [FP8, INT8, FNUZ], ids=lambda fmt: fmt.grid)
BLOCKS = [(None, None), (1, None), (1, 8), (4, 8), (3, 5), (None, 8), (4, None)]


def quantized(w, fmt):
    """Codes and scales of one matrix, which kernel and twin agree on."""
    made, twin = moe_quantize_weights_2d(w, fmt), moe_quantize_weights_2d_torch(w, fmt)
    assert same(made.codes, twin.codes)
    assert same(made.scale, twin.scale)
    return twin.codes, twin.scale


@pytest.mark.parametrize(("fmt", "top"), [(FP8, 448.0), (INT8, 127.0), (FNUZ, 240.0)])
def test_a_scale_is_one_product_with_the_reciprocal(fmt, top):
    amax = torch.tensor([top, 2 * top, 3.0, 0.0])
    reciprocal = torch.tensor(1 / top, dtype=torch.float32)
    assert scale_of(amax, fmt).tolist() == [1.0, 2.0, float(3.0 * reciprocal), 1.0]
    assert scale_of(torch.tensor(float("nan")), fmt).isnan(), "a NaN must not get lost"


def test_a_scale_for_the_whole_matrix():
    w = torch.tensor([[896.0, 2.0, -34.0], [0.0, -896.0, 38.0]])
    codes, scale = quantized(w, FP8)
    assert (scale.item(), scale.ndim) == (2.0, 0)
    assert bits(codes) == [[0x7E, 0x38, 0xD8], [0x00, 0xFE, 0x5A]]


def test_a_scale_for_each_output_channel():
    w = torch.tensor([[127.0, 1.5, -2.5], [254.0, 3.0, -127.0], [0.0, 0.0, 0.0]])
    codes, scale = quantized(w, INT8)
    assert scale.tolist() == [1.0, 2.0, 1.0]
    assert codes.tolist() == [[127, 2, -2], [127, 2, -64], [0, 0, 0]]


def test_a_scale_for_each_block_and_for_the_short_ones_at_the_edges():
    w = matrix(
        *(130, 129),
        r0_c0=448.0,
        r127_c127=1.0,
        r5_c128=896.0,
        r6_c128=1.0,
        r129_c0=-224.0,
        r128_c127=1.0,
    )
    codes, scale = quantized(w, FORMATS["fp8_block"])
    assert scale.tolist() == [[1.0, 2.0], [0.5, 1.0]]
    assert bits(codes[:1, :1]) == [[0x7E]]
    assert bits(codes[127:, 127:]) == [[0x38, 0], [0x40, 0], [0, 0]]
    assert bits(codes[5:7, 128:]) == [[0x7E], [0x30]]
    assert bits(codes[129:, :1]) == [[0xFE]]
    assert int((codes.view(torch.uint8) != 0).sum()) == 6


@pytest.mark.parametrize("block", [(2, None), (None, 3), (2, 3), (1, 1), (1, 4)])
def test_any_block_is_quantized_as_the_format_says(block):
    fmt = dataclasses.replace(INT8, block=block)
    w = torch.randn(5, 7)
    codes, scale = quantized(w, fmt)
    down, across = block[0] or 5, block[1] or 7
    values = dequantize(QuantTensor(codes=codes, scale=scale, format=fmt))
    for r in range(0, 5, down):
        for c in range(0, 7, across):
            part = w[r : r + down, c : c + across]
            step = part.abs().amax() / 127
            assert torch.allclose(
                values[r : r + down, c : c + across] / step, (part / step).round()
            )


def experts_of(dtype, e=2, rows=9, columns=21):
    """Matrices whose blocks differ in size, with zeros, both zeros, subnormals and ties."""
    torch.manual_seed(0)
    w = torch.randn(e, rows, columns) * torch.exp2(torch.randint(-24, 12, (e, rows, 1)).float())
    w[:, :, ::5] *= 2.0**-9
    w[0] = 0.0
    w[1, :, 0] = -0.0
    w[1, 0, 1] = 2.0**-140
    w[e - 1, 5] = torch.arange(columns) / 2 - 5
    return w.to(dtype)


@GRIDS
@pytest.mark.parametrize("block", BLOCKS)
def test_kernel_twin_and_codec_give_the_same_bits(grid, block, kernel_device):
    fmt = dataclasses.replace(grid, block=block)
    w = experts_of(torch.float32).to(kernel_device)
    made, twin = moe_quantize_weights(w, fmt), moe_quantize_weights_torch(w, fmt)
    assert same(made.codes, twin.codes)
    assert same(made.scale, twin.scale)
    by_codec = dataclasses.replace(fmt, grid="another")  # has no kernel
    assert same(moe_quantize_weights(w, by_codec).codes, twin.codes)
    alone = moe_quantize_weights_2d(w[1], fmt)
    assert same(alone.codes, twin.codes[1])
    assert same(alone.scale, twin.scale[1])
    made.check()


@pytest.mark.parametrize("block", [*BLOCKS, (128, 128), (1, 128)])
def test_several_tiles_of_a_block_share_its_scale(block, monkeypatch, kernel_device):
    size = 1 << 10 if block[1] == 128 else 32
    monkeypatch.setattr("moe.kernels.quantize_weights._size", lambda: size)
    sizes = {"rows": 130, "columns": 140} if block[1] == 128 else {}
    w = experts_of(torch.bfloat16, **sizes).to(kernel_device)
    fmt = dataclasses.replace(FP8, block=block)
    made, twin = moe_quantize_weights(w, fmt), moe_quantize_weights_torch(w, fmt)
    assert same(made.codes, twin.codes)
    assert same(made.scale, twin.scale)


@GRIDS
@pytest.mark.parametrize("view", ["transposed", "sliced", "expanded"])
def test_strides_do_not_matter(grid, view, kernel_device):
    w = experts_of(torch.float32).to(kernel_device)
    w = {
        "transposed": w.transpose(1, 2),
        "sliced": w[:, ::2, 3:-2],
        "expanded": w[:1].expand(4, -1, -1),
    }[view]
    fmt = dataclasses.replace(grid, block=(1, 8))
    made, plain = moe_quantize_weights(w, fmt), moe_quantize_weights(w.contiguous(), fmt)
    assert made.codes.is_contiguous()
    assert same(made.codes, plain.codes)
    assert same(made.scale, plain.scale)


@GRIDS
@pytest.mark.parametrize("block", [(None, None), (1, None), (128, 128)])
@pytest.mark.parametrize("shape", [(0, 4, 6), (2, 0, 6), (2, 4, 0)])
def test_nothing_to_quantize_is_no_error(grid, block, shape, kernel_device):
    fmt = dataclasses.replace(grid, block=block)
    w = torch.empty(shape, device=kernel_device)
    made, twin = moe_quantize_weights(w, fmt), moe_quantize_weights_torch(w, fmt)
    assert made.codes.shape == twin.codes.shape == shape
    assert same(made.scale, twin.scale)
    assert bool((made.scale == 1).all())


@GRIDS
def test_infinities_saturate_or_vanish_and_a_nan_stays_in_its_block(grid, kernel_device):
    fmt = dataclasses.replace(grid, block=(2, 4))
    w = torch.ones(1, 4, 8, device=kernel_device)
    w[0, 0, 0], w[0, 3, 7] = float("nan"), float("inf")
    made = moe_quantize_weights(w, fmt)
    assert same(made.scale, moe_quantize_weights_torch(w, fmt).scale)
    values = dequantize(made)[0]
    assert bool(values[:2, :4].isnan().all()), "the block's scale is NaN"
    assert float(made.scale[0, 1, 1]) == float("inf")
    assert torch.allclose(values[:2, 4:], torch.ones(2, 4, device=kernel_device), rtol=1e-2)
    assert torch.allclose(values[2:, :4], torch.ones(2, 4, device=kernel_device), rtol=1e-2)


@GRIDS
def test_the_largest_value_of_a_block_has_the_largest_code(grid, kernel_device):
    fmt = dataclasses.replace(grid, block=(4, 8))
    w = torch.randn(2, 8, 16, device=kernel_device)
    codes = moe_quantize_weights(w, fmt).codes.float().abs()
    largest = codes.view(2, 2, 4, 2, 8).amax(dim=(2, 4))
    assert bool((largest == fmt.top).all())


def test_nothing_is_left_unwritten_or_written_beyond(kernel_device):
    w = torch.randn(2, 9, 21, device=kernel_device)
    with guarded_buffers.poisoned():
        made = [moe_quantize_weights(w, dataclasses.replace(FP8, block=b)) for b in BLOCKS]
        assert guarded_buffers.broken_guards() == []
    assert not any(bool(t.scale.isnan().any() or t.codes.float().isnan().any()) for t in made)


@pytest.mark.parametrize(
    "do",
    [
        moe_quantize_weights,
        moe_quantize_weights_torch,
        moe_quantize_weights_2d,
        moe_quantize_weights_2d_torch,
    ],
)
def test_what_cannot_be_quantized_is_named_with_the_rule(do):
    flat = do in (moe_quantize_weights_2d, moe_quantize_weights_2d_torch)
    good = torch.ones(4, 6) if flat else torch.ones(2, 4, 6)
    noun = r"a matrix \[out, in\]" if flat else r"matrices \[experts, out, in\]"
    with pytest.raises(MoEError, match=rf"weights of shape \[6\] are not {noun}; reshape them"):
        do(torch.ones(6), FP8)
    with pytest.raises(MoEError, match=r"weights of torch.int8 cannot be .*; convert them first"):
        do(good.to(torch.int8), FP8)
    with pytest.raises(MoEError, match="format 'model': it keeps the layer's dtype; choose a"):
        do(good, FORMATS["model"])


@pytest.mark.parametrize("do", [moe_quantize_weights, moe_quantize_weights_torch])
@pytest.mark.parametrize(
    "changes",
    [
        {"scale_dtype": "e8m0", "scale_rounding": "up", "block": (1, 32)},
        {"scale_divides": True},
        {"scale_top": 400.0},
        {"bottom": -512.0},
        {"packing": 2, "block": (1, 32)},
    ],
    ids=str,
)
def test_scales_of_another_kind_are_not_taken_for_plain_ones(do, changes):
    fmt = dataclasses.replace(FP8, name="odd", **changes)
    with pytest.raises(MoEError, match=r"'odd' has more than a float32 scale .* as `quantizer` of"):
        do(torch.ones(2, 4, 64), fmt)


def halved(w, fmt):
    """A quantizer of another folder."""
    return QuantTensor(codes=w / 2, scale=torch.full((len(w),), 2.0), format=fmt)


def halved_torch(w, fmt):
    return QuantTensor(codes=w / 4, scale=torch.full((len(w),), 4.0), format=fmt)


def test_a_format_can_bring_a_quantizer_and_its_twin():
    fmt = dataclasses.replace(FP8, quantizer=f"{__name__}:halved")
    w = torch.ones(2, 3, 4)
    assert moe_quantize_weights(w, fmt).scale.tolist() == [2.0, 2.0]
    assert moe_quantize_weights_torch(w, fmt).scale.tolist() == [4.0, 4.0]
    assert moe_quantize_weights_2d(w[0], fmt).codes.tolist() == [[0.5] * 4] * 3
    assert moe_quantize_weights_2d_torch(w[0], fmt).scale.item() == 4.0
