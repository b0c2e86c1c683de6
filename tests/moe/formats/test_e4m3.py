"""fp8 e4m3 codes by hand-made examples."""

import torch

from moe.formats import FORMATS

FP8 = FORMATS["fp8_tensor"]


def bits(codes):
    return codes.view(torch.uint8).tolist()


def test_fp8_codes_round_to_even_and_saturate():
    values = [0.0, 1.0, -1.0, 17.0, 19.0, 448.0, -448.0, 500.0, -1e30, 2.0**-9, 2.0**-10, 3e-3]
    wanted = [0x00, 0x38, 0xB8, 0x58, 0x5A, 0x7E, 0xFE, 0x7E, 0xFE, 0x01, 0x00, 0x02]
    assert bits(FP8.codec.encode(torch.tensor(values))) == wanted
