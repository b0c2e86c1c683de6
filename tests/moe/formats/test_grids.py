"""Steps of a floating-point grid against torch's own neighbours."""

import pytest
import torch

from moe.formats.grids import float_step


@pytest.mark.parametrize(
    ("dtype", "bits", "smallest"), [(torch.bfloat16, 8, -133), (torch.float16, 11, -24)]
)
def test_a_step_is_the_distance_to_the_next_larger_number(dtype, bits, smallest):
    x = torch.tensor([1.0, 1.5, 2.0, 3.0, 2.0**-14, 2.0**-20, 1000.0]).to(dtype)
    larger = torch.nextafter(x, torch.full_like(x, torch.inf))
    steps = (larger.double() - x.double()).float()
    assert torch.equal(float_step(x.float(), bits, smallest), steps)


def test_a_step_does_not_depend_on_the_sign_and_is_the_smallest_at_zero():
    x = torch.tensor([-3.0, 3.0, 0.0, -0.0, 2.0**-30])
    assert float_step(x, bits=4, smallest=-9).tolist() == [0.25, 0.25, *[2.0**-9] * 3]


def test_infinite_values_have_the_largest_step():
    x = torch.tensor([torch.inf, -torch.inf, 3e38])
    assert float_step(x, bits=8, smallest=-133).tolist() == [2.0**120] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_the_exponents_for_any_bits(dtype):
    patterns = torch.randint(-(2**31), 2**31, (10_000,), dtype=torch.int64)
    x = patterns.to(torch.int32).view(torch.float32)
    x = x[x.isfinite()].to(dtype)
    _, exponent = torch.frexp(x)
    exponent = torch.where(x == 0, -9, exponent - 4).clamp(min=-9)
    assert torch.equal(float_step(x, 4, -9), torch.ldexp(torch.ones_like(x), exponent))
