"""fp8 with one scale: calibrated ones are given, live ones span all rows."""

import torch

from moe.quant.fp8_tensor import Fp8TensorDynamic, Fp8TensorStatic
from tests.moe.quant.hand_made import bits


def test_static_activations_take_the_given_scale_and_saturate():
    x = torch.tensor([[1.0, -17.0], [500.0, 2.0]])
    made = Fp8TensorStatic().quantize_input(x, torch.tensor(0.5))
    assert made.scale.item() == 0.5
    assert bits(made.codes) == [[0x40, 0xE0], [0x7E, 0x48]]  # 2, -34 to -32, 1000 to 448, 4


def test_a_dynamic_scale_spans_all_rows():
    x = torch.tensor([[2.0, 0.0], [-896.0, 4.0]])
    made = Fp8TensorDynamic().quantize_input(x, None)
    assert (made.scale.item(), made.scale.ndim) == (2.0, 0)
    assert bits(made.codes) == [[0x38, 0x00], [0xFE, 0x40]]
    assert not Fp8TensorDynamic().input_scale_is_local


def test_static_scales_go_with_every_shard():
    quant = Fp8TensorStatic()
    whole = quant.quantize_weights(torch.ones(1, 8, 2), torch.ones(1, 2, 4))
    a1, a2 = torch.tensor(1.5), torch.tensor(2.5)
    part = quant.shard(whole.replace(a1_scale=a1, a2_scale=a2), range(2), 4)
    assert (part.a1_scale, part.a2_scale) == (a1, a2)
