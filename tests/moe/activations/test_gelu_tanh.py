"""GELU in its tanh form by its formula."""

import math

import pytest
import torch

from moe.activations import ACTIVATIONS
from moe.spec import resolve

ROW = ACTIVATIONS.row("gelu_tanh")
GATE, UP = torch.tensor([1.0]).double(), torch.tensor([2.0]).double()


def test_it_is_the_function_of_its_name():
    inner = math.sqrt(2 / math.pi) * 1.044715
    expected = pytest.approx(1 + math.tanh(inner), rel=1e-12)
    assert float(resolve(ROW.truth)(GATE, UP).value) == expected
    assert float(resolve(ROW.target)()(GATE, UP)) == expected
