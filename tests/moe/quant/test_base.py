"""Codes and scales by hand-made examples, and how a rank takes its shard of them."""

import pytest
import torch

from moe.formats import FORMATS
from moe.quant.base import (
    dequantize_activations,
    dequantize_weight,
    quantize_pair,
)
from moe.quant.fp8_block import Fp8Block
from moe.quant.none import NoQuant

FP8, INT8 = FORMATS["fp8_tensor"], FORMATS["int8_channel"]


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
