"""Scales on a grid by hand-made examples."""

import dataclasses

import pytest
import torch

from moe.formats import FORMATS
from moe.reference.block_scales import global_scale, power_of_two, two_level

MXFP4, MXFP8, NVFP4 = FORMATS["mxfp4"], FORMATS["mxfp8"], FORMATS["nvfp4"]


@pytest.mark.parametrize(
    ("amax", "floor", "up"),
    [
        (6.0, 0, 0),
        (6.01, 0, 1),
        (7.99, 0, 1),
        (8.0, 1, 1),
        (4.0, 0, 0),
        (3.99, -1, 0),
        (3.0, -1, -1),
        (0.0, -127, -127),
        (2.0**-149, -127, -127),
        (3e38, 125, 126),
    ],
)
def test_each_rule_of_e8m0(amax, floor, up):
    """`floor` lets 6.01 to 7.99 saturate at 6; `up` saturates nothing."""
    size = torch.tensor([amax])
    assert power_of_two(size, MXFP4).tolist() == [2.0**floor]
    rounded_up = dataclasses.replace(MXFP4, scale_rounding="up")
    assert power_of_two(size, rounded_up).tolist() == [2.0**up]


def test_a_power_of_two_times_the_largest_code_is_not_rounded_up():
    exponents = torch.arange(-100, 100).float()
    amax = 448 * torch.exp2(exponents)
    assert torch.equal(power_of_two(amax, MXFP8), torch.exp2(exponents))
    above = torch.nextafter(amax, torch.tensor(torch.inf))
    assert torch.equal(power_of_two(above, MXFP8), torch.exp2(exponents + 1))


def test_a_nan_is_kept():
    nan = torch.tensor([torch.nan])
    assert power_of_two(nan, MXFP8).isnan().all()
    assert two_level(nan, NVFP4, torch.tensor(1.0)).isnan().all()


def test_the_largest_block_has_the_largest_scale():
    amax = torch.tensor([3.0, 0.3, 0.0, 1e-9])
    total = global_scale(amax.amax(), NVFP4)
    assert total.item() == 448 * 6 / 3.0
    scales = two_level(amax, NVFP4, total) * total
    assert torch.allclose(scales, torch.tensor([448.0, 44.0, 2.0**-9, 2.0**-9]))
    assert global_scale(torch.zeros(()), NVFP4).item() == 1.0
