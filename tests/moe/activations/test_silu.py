"""SiLU by its formula."""

import math

import pytest
import torch

from moe.activations import ACTIVATIONS
from moe.reference.activation import activation_of

GATE, UP = torch.tensor([1.0]).double(), torch.tensor([2.0]).double()


@pytest.mark.parametrize(("name", "up"), [("silu", UP), ("silu_no_mul", None)])
def test_it_is_the_function_of_its_name(name, up):
    value = (2 if up is not None else 1) / (1 + math.exp(-1))
    expected = pytest.approx(value, rel=1e-12)
    assert float(activation_of(name)(GATE, up)) == expected
    assert float(ACTIVATIONS.load(name)()(GATE, up)) == expected


def test_a_sigmoid_below_the_normal_numbers_may_be_flushed_to_zero():
    gate = torch.tensor([-88.0])
    value = float(ACTIVATIONS.load("silu")()(gate, torch.tensor([1.0])))
    assert value < -(2.0**-126)  # small, and no float32 that hardware flushes
    assert 4 * float(activation_of("silu").of_gate(gate).noise) >= abs(value) / 2
