"""Four-bit integers by hand-made examples."""

import torch

from moe.formats import FORMATS
from moe.formats.nibbles import unpack


def test_symmetric_codes_are_stored_with_a_bias_of_eight():
    codes = FORMATS["int4_g32"].codec.encode(torch.tensor([0.0, 2.5, 3.5, -9.0, 7.5, torch.nan]))
    assert unpack(codes).tolist() == [8, 10, 12, 0, 15, 8]
    assert FORMATS["int4_g32"].codec.decode(codes).tolist() == [0, 2, 4, -8, 7, 0]


def test_codes_with_a_zero_point_are_stored_as_they_are():
    codes = FORMATS["int4_zp_g32"].codec.encode(torch.tensor([0.0, 2.5, 15.6, -1.0]))
    assert unpack(codes).tolist() == [0, 2, 15, 0]
