"""fp8 blocks: a scale for each group of 128 columns of a token."""

import torch

from moe.quant.base import dequantize_activations
from moe.quant.fp8_block import Fp8Block
from tests.moe.quant.hand_made import bits, matrix


def test_a_scale_for_each_group_of_128_columns():
    x = matrix(2, 130, r0_c0=448.0, r0_c128=896.0, r0_c129=2.0, r1_c127=224.0)
    made = Fp8Block().quantize_input(x, None)
    assert made.scale.tolist() == [[1.0, 2.0], [0.5, 1.0]]
    assert bits(made.codes[:, [0, 127, 128, 129]]) == [[0x7E, 0, 0x7E, 0x38], [0, 0x7E, 0, 0]]
    assert torch.equal(dequantize_activations(made), x)
