"""Padded weights: the same values, zeros around them, and gate and up each padded."""

import dataclasses

import pytest
import torch

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor, dequantize
from moe.kernels.quantize_weights import moe_quantize_weights_torch
from moe.quant.none import NoQuant
from moe.quant.padding import pad_weights
from moe.types import ExpertWeights

N, K = 12, 10  # padded to 16 and 24
ONE_BYTE = [fmt.name for fmt in FORMATS.built_in if fmt.grid in ("e4m3", "e4m3fnuz", "int8")]
PLAIN = [name for name in ONE_BYTE if FORMATS[name].scale_dtype == "f32"]
BLOCKS = [(None, None), (1, None), (1, 4), (4, 4), (1, 8)]


def weights_of(fmt, gated=True):
    torch.manual_seed(0)
    rows = 2 * N if gated else N
    w13, w2 = torch.randn(3, rows, K), torch.randn(3, K, N)
    return ExpertWeights.of(*(moe_quantize_weights_torch(w, fmt) for w in (w13, w2)))


def check(weights, padded, gated=True):
    """Compare all values of a padded pair with those before."""
    halves = 2 if gated else 1
    before, after = dequantize(weights.gate_up), dequantize(padded.gate_up)
    assert after.shape == (3, halves * 16, 24)
    for b, a in zip(before.chunk(halves, dim=1), after.chunk(halves, dim=1), strict=True):
        assert torch.equal(a[:, :N, :K], b)
        assert not bool(a[:, N:].any() or a[:, :, K:].any())
    down = dequantize(padded.down)
    assert torch.equal(down[:, :K, :N], dequantize(weights.down))
    assert not bool(down[:, K:].any() or down[:, :, N:].any())
    padded.gate_up.check()
    padded.down.check()
    assert padded.w13.is_contiguous()
    assert padded.w2.is_contiguous()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("grid", ["fp8_tensor", "int8_channel", "fp8_fnuz_tensor"])
def test_values_stay_and_the_rest_is_zero(grid, block):
    weights = weights_of(dataclasses.replace(FORMATS[grid], block=block))
    check(weights, pad_weights(weights, 24, 16))


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_without_a_gate_there_is_one_half(block):
    weights = weights_of(dataclasses.replace(FORMATS["fp8_tensor"], block=block), gated=False)
    check(weights, pad_weights(weights, 24, 16), gated=False)


def test_unquantized_weights_and_sizes_that_are_padded_already():
    w13, w2 = torch.randn(3, 2 * N, K), torch.randn(3, K, N)
    weights = NoQuant().quantize_weights(w13, w2)
    check(weights, NoQuant().pad(weights, 24, 16))
    assert pad_weights(weights, K, N) is weights


def test_a_rank_without_experts_has_padded_shapes():
    fmt = FORMATS["fp8_channel"]
    empty = ExpertWeights.of(
        *(moe_quantize_weights_torch(torch.ones(0, *s), fmt) for s in ((2 * N, K), (K, N)))
    )
    padded = pad_weights(empty, 24, 16)
    assert (padded.w13.shape, padded.w13_scale.shape) == ((0, 32, 24), (0, 32))
    assert (padded.w2.shape, padded.w2_scale.shape) == ((0, 24, 16), (0, 24))


@pytest.mark.parametrize(("name", "two"), [("mxfp8", 128), ("mxfp4", 128), ("nvfp4", 0x40)])
def test_scales_of_added_blocks_are_one_and_packed_codes_zero(name, two):
    fmt = FORMATS[name]
    codes = torch.full((1, 4, fmt.group // fmt.packing), 0x11, dtype=torch.uint8)
    scale = torch.full((1, 4, 1), two, dtype=torch.uint8)
    if fmt.scale_dtype == "e4m3":
        scale = scale.view(torch.float8_e4m3fn)
    if fmt.packing == 1:
        codes = codes.view(torch.float8_e4m3fn)
    total = torch.ones(1) if fmt.global_scale else None
    tensor = QuantTensor(codes=codes, scale=scale, format=fmt, global_scale=total)
    weights = ExpertWeights.of(tensor, tensor)  # 4 rows: gate and up of 2, or 4 hidden columns
    padded = pad_weights(weights, 2 * fmt.group, fmt.group).gate_up
    assert padded.scale.dtype == scale.dtype
    assert padded.block_scale[0, :, 1].tolist() == [1.0] * len(padded.scale[0])
    assert padded.block_scale[0, 0].tolist() == [2.0, 1.0]
    values = dequantize(padded)
    assert bool((values[0, :4, : fmt.group] == dequantize(tensor)[0]).all())
    assert not bool(values[0, :, fmt.group :].any())


def test_a_block_across_the_seam_of_gate_and_up_cannot_be_torn_apart():
    weights = weights_of(dataclasses.replace(FORMATS["fp8_block"], block=(8, 8)))
    says = (
        "w13 of a shard of 12 columns has a block of 8 rows of fp8_block scales in gate and in up"
    )
    with pytest.raises(
        MoEError, match=f"{says}; it cannot be padded to 16: choose a multiple of 8"
    ):
        pad_weights(weights, K, 16)
    assert pad_weights(weights, 24, N).w13.shape == (3, 2 * N, 24), "the hidden size can be padded"


def test_a_partly_padded_group_with_a_zero_point_is_refused():
    fmt = dataclasses.replace(FORMATS["int8_channel"], block=(1, 8), zero_point=True, bottom=0.0)
    plain = weights_of(dataclasses.replace(FORMATS["int8_channel"], block=(1, 8)))
    zeros = {"w13_zero": plain.w13_scale.byte(), "w2_zero": plain.w2_scale.byte()}
    weights = plain.replace(format=fmt, **zeros)
    with pytest.raises(
        MoEError, match="a shard of 12 ends inside a group of 8 columns with a zero"
    ):
        pad_weights(weights, K, 16)
    with pytest.raises(MoEError, match=r"hidden size of 10 ends inside .*: choose a multiple of 8"):
        pad_weights(weights, 16, N)


def test_biases_are_padded_as_the_rows_of_their_products():
    b13, b2 = torch.arange(1.0, 2 * N + 1).expand(3, -1), torch.ones(3, K)
    padded = pad_weights(weights_of(FORMATS["fp8_channel"]).replace(b13=b13, b2=b2), 24, 16)
    assert padded.b13.view(3, 2, 16)[:, :, :N].reshape(3, -1).tolist() == b13.tolist()
    assert not bool(padded.b13.view(3, 2, 16)[:, :, N:].any())
    assert padded.b2.tolist() == [[1.0] * K + [0.0] * 14] * 3


def test_a_rank_without_experts_has_no_biases_to_pad():
    weights = weights_of(FORMATS["fp8_channel"]).replace(
        b13=torch.ones(3, 2 * N), b2=torch.ones(3, K)
    )
    parts = {name: t[:0] for name, t in vars(weights).items() if isinstance(t, torch.Tensor)}
    padded = pad_weights(weights.replace(**parts), 24, 16)
    shapes = {name: tuple(getattr(padded, name).shape) for name in ("w13", "w2", "b13", "b2")}
    assert shapes == {"w13": (0, 32, 24), "w2": (0, 24, 16), "b13": (0, 32), "b2": (0, 24)}


def test_added_elements_of_every_format_are_zero():
    for fmt in FORMATS.built_in:
        if fmt.quantizer is None or fmt.grid == "model":
            continue
        torch.manual_seed(0)
        w13, w2 = torch.randn(2, 2 * 128, 128), torch.randn(2, 128, 128)
        weights = ExpertWeights.of(*(moe_quantize_weights_torch(w, fmt) for w in (w13, w2)))
        padded = pad_weights(weights, 256, 256)
        gate_up, down = dequantize(padded.gate_up).view(4, 256, 256), dequantize(padded.down)
        for part in (gate_up[:, 128:], gate_up[:, :, 128:], down[:, 128:], down[:, :, 128:]):
            assert not bool(part.any()), fmt.name
