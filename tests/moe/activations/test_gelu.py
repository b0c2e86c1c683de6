"""GELU by the error function, by its formula."""

import math

import pytest
import torch

from moe.activations import ACTIVATIONS
from moe.reference.activation import activation_of

GATE, UP = torch.tensor([1.0, -6.0]).double(), torch.tensor([2.0, 2.0]).double()


@pytest.mark.parametrize(("name", "up"), [("gelu", UP), ("gelu_no_mul", None)])
def test_it_is_the_function_of_its_name(name, up):
    share = [math.erfc(-x / math.sqrt(2)) / 2 for x in (1.0, -6.0)]
    wanted = [share[0] * (2 if up is not None else 1), -6 * share[1] * (2 if up is not None else 1)]
    assert activation_of(name)(GATE, up).tolist() == pytest.approx(wanted, rel=1e-12)
    # 1 + erf(t) loses digits of the tail, which the row's noise states.
    assert ACTIVATIONS.load(name)()(GATE, up).tolist() == pytest.approx(wanted, rel=1e-7)
