"""Squared ReLU by its formula."""

import pytest
import torch

from moe.activations import ACTIVATIONS
from moe.reference.activation import activation_of

GATE, UP = torch.tensor([3.0, -3.0, 0.0]), torch.tensor([2.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("name", "up", "wanted"),
    [("relu2", UP, [18.0, 0.0, 0.0]), ("relu2_no_mul", None, [9.0, 0.0, 0.0])],
)
def test_it_is_the_function_of_its_name(name, up, wanted):
    assert activation_of(name)(GATE, up).tolist() == wanted
    assert ACTIVATIONS.load(name)()(GATE, up).tolist() == wanted
