"""Clamped SwiGLU by its formula, with the parameters of gpt-oss."""

import math

import pytest
import torch

from moe.activations import ACTIVATIONS
from moe.reference.activation import activation_of

ROW = ACTIVATIONS.row("swiglu_clamped")
GATE = torch.tensor([1.0, 9.0, 1.0, 1.0, -9.0]).double()
UP = torch.tensor([2.0, 2.0, 9.0, -9.0, 0.0]).double()


def test_it_clamps_the_gate_from_above_and_up_on_both_sides():
    def f(gate, factor):
        return gate / (1 + math.exp(-1.702 * gate)) * factor

    wanted = [f(1, 3), f(7, 3), f(1, 8), f(1, -6), f(-9, 1)]
    assert activation_of("swiglu_clamped")(GATE, UP).tolist() == pytest.approx(wanted, rel=1e-12)
    assert ACTIVATIONS.load("swiglu_clamped")()(GATE, UP).tolist() == pytest.approx(
        wanted, rel=1e-12
    )


def test_the_row_has_the_parameters_of_the_model():
    assert (ROW.alpha, ROW.beta, ROW.limit) == (1.702, 1.0, 7.0)


def test_a_sigmoid_below_the_normal_numbers_may_be_flushed_to_zero():
    gate = torch.tensor([-52.0])
    value = float(ACTIVATIONS.load("swiglu_clamped")()(gate, torch.tensor([1.0])))
    assert value < -(2.0**-126)  # small, and no float32 that hardware flushes
    assert 4 * float(activation_of("swiglu_clamped").of_gate(gate).noise) >= abs(value) / 2
