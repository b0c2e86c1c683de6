"""How errors go through roundings, products and activations."""

import pytest
import torch

from moe.reference.error_propagation import Noisy, rounded
from moe.reference.formats import on_grid, step_of


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_no_jump_goes_farther_through_a_rounding_than_its_doubt_says(dtype):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(20000, generator=generator)
    value[::7] = torch.exp2(torch.arange(len(value[::7])) % 9 - 4.0)  # neighbours are finer below
    value[::14] *= 1 + 2.0**-13
    doubt = step_of(value, dtype) * torch.rand(20000, generator=generator) * 3
    none = torch.zeros_like(value)
    settled = rounded(Noisy(value=value, variance=none, jumps=none, doubt=doubt), "model", dtype)
    for side in (0.999, -0.999):  # off the very tie, where float32 decides
        moved = (on_grid(value + side * doubt, dtype) - settled.value).abs()
        step, there = step_of(value, dtype), step_of(value + side * doubt, dtype)
        assert (moved <= settled.doubt)[step == there].all()
        assert (moved <= settled.doubt + step / 2)[step > there].all()  # past a power of two
    assert (settled.doubt > doubt.maximum(step_of(value, dtype))).any()  # two steps, or three
