"""SiLU by its formula."""

import math

import pytest
import torch

from moe.activations import ACTIVATIONS
from moe.spec import resolve

ROW = ACTIVATIONS.row("silu")
GATE, UP = torch.tensor([1.0]).double(), torch.tensor([2.0]).double()


def test_it_is_the_function_of_its_name():
    expected = pytest.approx(2 / (1 + math.exp(-1)), rel=1e-12)
    assert float(resolve(ROW.truth)(GATE, UP).value) == expected
    assert float(resolve(ROW.target)()(GATE, UP)) == expected
