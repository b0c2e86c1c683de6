"""Codes and scales by hand-made examples, and how a rank takes its shard of them."""

import dataclasses

import pytest
import torch

from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor, dequantize
from moe.quant.base import (
    dequantize_activations,
    dequantize_weight,
    quantize_experts,
    quantize_matrix,
    quantize_pair,
    scale_of,
)
from moe.quant.fp8_block import Fp8Block
from moe.quant.none import NoQuant
from tests.moe.quant.hand_made import bits, matrix

FP8, INT8 = FORMATS["fp8_tensor"], FORMATS["int8_channel"]


@pytest.mark.parametrize(("fmt", "top"), [(FP8, 448.0), (INT8, 127.0)])
def test_a_scale_is_one_product_with_the_reciprocal(fmt, top):
    amax = torch.tensor([top, 2 * top, 3.0, 0.0])
    reciprocal = torch.tensor(1 / top, dtype=torch.float32)
    assert scale_of(amax, fmt).tolist() == [1.0, 2.0, float(3.0 * reciprocal), 1.0]
    assert scale_of(torch.tensor(float("nan")), fmt).isnan(), "a NaN must not get lost"


def test_a_scale_for_the_whole_matrix():
    w = torch.tensor([[896.0, 2.0, -34.0], [0.0, -896.0, 38.0]])
    codes, scale = quantize_matrix(w, FP8)
    assert (scale.item(), scale.ndim) == (2.0, 0)
    assert bits(codes) == [[0x7E, 0x38, 0xD8], [0x00, 0xFE, 0x5A]]


def test_a_scale_for_each_output_channel():
    w = torch.tensor([[127.0, 1.5, -2.5], [254.0, 3.0, -127.0], [0.0, 0.0, 0.0]])
    codes, scale = quantize_matrix(w, INT8)
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
    codes, scale = quantize_matrix(w, FORMATS["fp8_block"])
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
    codes, scale = quantize_matrix(w, fmt)
    down, across = block[0] or 5, block[1] or 7
    values = dequantize(QuantTensor(codes=codes, scale=scale, format=fmt))
    for r in range(0, 5, down):
        for c in range(0, 7, across):
            part = w[r : r + down, c : c + across]
            step = part.abs().amax() / 127
            assert torch.allclose(
                values[r : r + down, c : c + across] / step, (part / step).round()
            )


@pytest.mark.parametrize("block", [(None, None), (1, None), (128, 128)])
@pytest.mark.parametrize("grid", [FP8, INT8], ids=lambda fmt: fmt.grid)
def test_each_expert_has_scales_of_its_own(grid, block):
    fmt = dataclasses.replace(grid, block=block)
    torch.manual_seed(0)
    w = torch.randn(3, 140, 150) * torch.tensor([1.0, 8.0, 0.1])[:, None, None]
    codes, scale = quantize_experts(w.bfloat16(), fmt)
    for e in range(3):
        alone = quantize_matrix(w[e].bfloat16(), fmt)
        assert torch.equal(codes[e].view(torch.uint8), alone[0].view(torch.uint8))
        assert torch.equal(scale[e], alone[1])


NAMED = torch.arange(8.0)[None, :, None] + 10  # rows of w13, N = 4: gate 10..13, up 14..17


def test_gate_and_up_are_each_split():
    quant = NoQuant()
    whole = quant.quantize_weights(NAMED.expand(1, 8, 2), torch.arange(8.0).view(1, 2, 4))
    left, right = (quant.shard(whole, columns, 4) for columns in (range(2), range(2, 4)))
    assert left.w13[0, :, 0].tolist() == [10, 11, 14, 15]
    assert right.w13[0, :, 0].tolist() == [12, 13, 16, 17]
    assert left.w2[0].tolist() == [[0, 1], [4, 5]]
    assert right.w2[0].tolist() == [[2, 3], [6, 7]]


@pytest.mark.parametrize(
    ("columns", "intermediate"),
    [(range(96), 256), (range(96, 256), 256), (range(128), 192)],
    ids=["end", "start", "gate/up seam"],
)
def test_a_block_that_straddles_is_refused(columns, intermediate):
    quant = Fp8Block()
    whole = quant.quantize_weights(
        torch.ones(1, 2 * intermediate, 128), torch.ones(1, 128, intermediate)
    )
    text = rf"columns range\({columns.start}, {columns.stop}\) of {intermediate} cut a block of 128"
    with pytest.raises(ValueError, match=text + "; choose sizes whose"):
        quant.shard(whole, columns, intermediate)


def test_both_matrices_of_an_expert_are_quantized_alike():
    w13, w2 = torch.full((1, 4, 2), 254.0), torch.full((1, 2, 2), 127.0)
    made = quantize_pair(w13, w2, INT8)
    assert made.format is INT8
    assert (made.w13_scale.tolist(), made.w2_scale.tolist()) == ([[2.0] * 4], [[1.0] * 2])
    assert torch.equal(dequantize_weight(made.gate_up), w13)
    assert torch.equal(dequantize_weight(made.down), w2)


class Halves(NoQuant):
    """Keeps what it is asked to quantize."""

    def quantize_input(self, x, a1_scale):
        self.asked = (x, a1_scale)
        return super().quantize_input(x / 2, a1_scale)


def test_an_intermediate_is_quantized_as_an_input_with_its_own_scale():
    quant, h, scale = Halves(), torch.full((1, 2), 3.0), torch.tensor(0.5)
    made = quant.quantize_intermediate(h, scale)
    assert quant.asked == (h, scale)
    assert dequantize_activations(made).tolist() == [[1.5, 1.5]]
