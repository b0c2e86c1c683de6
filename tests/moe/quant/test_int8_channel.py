"""int8: a scale for each token."""

import torch

from moe.quant.int8_channel import Int8Channel


def test_a_scale_for_each_token():
    x = torch.tensor([[127.0, 2.5], [-254.0, 3.0], [0.0, 0.0]])
    made = Int8Channel().quantize_input(x, None)
    assert made.scale.tolist() == [[1.0], [2.0], [1.0]]
    assert made.codes.tolist() == [[127, 2], [-127, 2], [0, 0]]
