"""Scales that are powers of two: both roundings by hand, and bytes as torch reads them."""

import pytest
import torch

from moe.formats import FORMATS
from moe.kernels.exponents import divided_torch, exponent_code_torch

HIGHEST = 3.4028234e38


@pytest.mark.parametrize(
    ("name", "amax", "code"),
    [
        ("mxfp4", 6.0, 127),  # floor: 2^2 / 2^2
        ("mxfp4", 7.9, 127),
        ("mxfp4", 8.0, 128),
        ("mxfp4", 3.9, 126),
        ("mxfp4", 0.0, 0),
        ("mxfp4", 2.0**-140, 0),
        ("mxfp4", float("nan"), 255),
        ("mxfp8", 448.0, 127),  # up
        ("mxfp8", 448.1, 128),
        ("mxfp8", 224.1, 127),
        ("mxfp8", 0.0, 0),
        ("mxfp8", HIGHEST, 247),
        ("mxfp8", float("nan"), 255),
    ],
)
def test_codes_by_hand(name, amax, code):
    assert exponent_code_torch(torch.tensor([amax]), FORMATS[name]).tolist() == [code]


def test_a_byte_is_what_torch_reads():
    fmt, bytes_ = FORMATS["mxfp8"], torch.arange(1, 255, dtype=torch.uint8)
    powers = bytes_.view(torch.float8_e8m0fnu).float()
    codes = exponent_code_torch(powers * fmt.top, fmt)
    is_finite = (powers * fmt.top).isfinite()
    assert torch.equal(codes[is_finite], bytes_[is_finite])


def test_division_rounds_once():
    x = torch.arange(1.0, 2000.0)
    assert torch.equal(divided_torch(x, 7.5).double(), (x.double() / 7.5).float().double())
