"""Without quantization nothing is changed or copied."""

import torch

from moe.quant.none import NoQuant


def test_weights_and_activations_are_handed_on():
    w13, w2, x = torch.ones(2, 8, 4), torch.ones(2, 4, 4), torch.ones(3, 4).bfloat16()
    made = NoQuant().quantize_weights(w13, w2)
    assert made.w13 is w13
    assert made.w2 is w2
    sent = NoQuant().quantize_input(x, torch.tensor(2.0))
    assert sent.codes is x
    assert (sent.scale, sent.format.name) == (None, "model")
