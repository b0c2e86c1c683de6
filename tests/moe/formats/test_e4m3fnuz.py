"""fp8 e4m3fnuz codes by hand-made examples, and beside those of e4m3."""

import torch

from moe.formats import FORMATS
from moe.reference import formats

FNUZ, FP8 = FORMATS["fp8_fnuz_tensor"], FORMATS["fp8_tensor"]


def bits(codes):
    return codes.view(torch.uint8).tolist()


def test_codes_round_to_even_saturate_and_have_one_zero():
    values = [0.0, -0.0, 1.0, -1.0, 17.0, 19.0, 240.0, -240.0, 250.0, -1e30, 2.0**-10, -(2.0**-12)]
    wanted = [0x00, 0x00, 0x40, 0xC0, 0x60, 0x62, 0x7F, 0xFF, 0x7F, 0xFF, 0x01, 0x00]
    assert bits(FNUZ.codec.encode(torch.tensor(values))) == wanted


def test_every_code_but_nan_stands_for_a_number_that_is_encoded_as_it():
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[codes != 0x80]
    values = FNUZ.codec.decode(codes.view(torch.float8_e4m3fnuz))
    assert bits(FNUZ.codec.encode(values)) == codes.tolist()
    assert float(values.max()) == FNUZ.top


def test_a_code_is_half_of_what_it_is_in_e4m3():
    codes = torch.arange(0x7F, dtype=torch.uint8)
    halves = FNUZ.codec.decode(codes.view(torch.float8_e4m3fnuz))
    assert torch.equal(halves * 2, FP8.codec.decode(codes.view(torch.float8_e4m3fn)))


def test_the_truth_has_the_same_grid():
    x = torch.cat([torch.randn(4000) * s for s in (1e-3, 0.05, 1.0, 30.0)]).clamp(-240, 240)
    assert torch.equal(formats.on_grid(x, FNUZ), x.to(torch.float8_e4m3fnuz).float())
    assert formats.step_of(torch.tensor([0.0, 1.0, 240.0]), FNUZ).tolist() == [2**-10, 0.125, 16.0]
