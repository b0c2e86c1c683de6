"""One-byte codes and scales beside those of compressed-tensors, where it is installed.

It divides amax by the largest code, so a scale can be the neighbour of ours, which is a product
with the reciprocal; where the scales are equal, the codes are equal bit for bit. Its int8 has the
range -128 to 127 and scales of amax / 127.5: another format.
"""

import pytest
import torch

from moe.formats import FORMATS
from moe.kernels.quantize_weights import moe_quantize_weights_2d_torch

WHY = "install compressed-tensors to compare with it"
STRATEGIES = {"fp8_tensor": "tensor", "fp8_channel": "channel"}


@pytest.mark.parametrize("name", STRATEGIES)
def test_fp8_is_that_of_compressed_tensors(name):
    quantization = pytest.importorskip("compressed_tensors.quantization", reason=WHY)
    from compressed_tensors.quantization import lifecycle
    from compressed_tensors.quantization.utils import calculate_qparams

    torch.manual_seed(0)
    w = torch.randn(256, 384) * torch.exp2(torch.randn(256, 1) * 3)
    w[:64] *= 448 / w[:64].abs().amax(dim=1, keepdim=True)  # scales are powers of two on both sides
    w[0, 0] = 448.0 * 2.0**8
    strategy = STRATEGIES[name]
    args = quantization.QuantizationArgs(num_bits=8, type="float", strategy=strategy)
    sides = {"dim": 1, "keepdim": True} if strategy == "channel" else {}
    scale, zero = calculate_qparams(w.amin(**sides), w.amax(**sides), args)
    codes = lifecycle.forward.quantize(w, scale, zero, args, dtype=torch.float8_e4m3fn)
    ours = moe_quantize_weights_2d_torch(w, FORMATS[name])
    neighbours = (ours.scale.view(-1).view(torch.int32) - scale.view(-1).view(torch.int32)).abs()
    assert int(neighbours.max()) <= 1
    equal = (neighbours == 0).expand(256)
    assert int(equal.sum()) >= 64
    assert torch.equal(ours.codes.view(torch.uint8)[equal], codes.view(torch.uint8)[equal])
