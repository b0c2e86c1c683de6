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


def test_every_code_but_nan_stands_for_a_number_that_is_encoded_as_it():
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F]  # NaN of either sign
    values = FP8.codec.decode(codes.view(torch.float8_e4m3fn))
    assert bits(FP8.codec.encode(values)) == codes.tolist()
    assert float(values.max()) == FP8.top
