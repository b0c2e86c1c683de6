"""GELU in its tanh form by its formula."""

import math

import pytest
import torch

from moe.activations import ACTIVATIONS
from moe.reference.activation import activation_of

GATE, UP = torch.tensor([1.0]).double(), torch.tensor([2.0]).double()


@pytest.mark.parametrize(("name", "up"), [("gelu_tanh", UP), ("gelu_tanh_no_mul", None)])
def test_it_is_the_function_of_its_name(name, up):
    inner = math.sqrt(2 / math.pi) * 1.044715
    value = (1 + math.tanh(inner)) * (1 if up is not None else 0.5)
    expected = pytest.approx(value, rel=1e-12)
    assert float(activation_of(name)(GATE, up)) == expected
    assert float(ACTIVATIONS.load(name)()(GATE, up)) == expected
