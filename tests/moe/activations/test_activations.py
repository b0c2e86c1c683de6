"""Each activation's member, its twin in the reference, and what its row says of it."""

import re

import pytest
import torch

from moe.activations import ACTIVATIONS
from moe.errors import MoEError
from moe.spec import Platform, resolve

CHIP = Platform(name="chip", device="cuda", features=frozenset())


def row_id(row):
    return row.name


def inputs(dtype=torch.float32):
    gate = torch.linspace(-12, 12, 4001, dtype=dtype)
    up = torch.linspace(3, -2, 4001, dtype=dtype)
    return gate, up


@pytest.mark.parametrize("row", list(ACTIVATIONS), ids=row_id)
def test_a_member_differs_from_its_twin_by_float32_noise_at_most(row):
    gate, up = inputs()
    got = resolve(row.target)()(gate, up)
    right = resolve(row.truth)(gate.double(), up.double())
    assert bool(((got - right.value).abs() <= 2 * right.noise + 1e-38).all())


@pytest.mark.parametrize("row", list(ACTIVATIONS), ids=row_id)
def test_a_twin_has_the_sizes_of_its_derivatives(row):
    gate, up = (t.requires_grad_() for t in inputs(torch.float64))
    resolve(row.target)()(gate, up).sum().backward()
    right = resolve(row.truth)(gate.detach(), up.detach())
    assert torch.allclose(right.by_gate, gate.grad.abs(), rtol=1e-9, atol=1e-12)
    assert torch.allclose(right.by_up, up.grad.abs(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("row", [r for r in ACTIVATIONS if r.identity_from], ids=row_id)
@pytest.mark.parametrize("of", ["target", "truth"])
def test_large_gates_pass_as_they_are(row, of):
    large = torch.tensor([0.0, row.identity_from, 2.5 * row.identity_from, 4096.0])
    one = torch.ones_like(large)
    value = (
        resolve(row.target)()(large, one)
        if of == "target"
        else resolve(row.truth)(large, one).value
    )
    assert torch.equal(value, large)


def test_an_unknown_activation_names_those_there_are():
    text = "no activation is called 'gelu_tnah', did you mean 'gelu_tanh'"
    with pytest.raises(MoEError, match=re.escape(text)):
        ACTIVATIONS.row("gelu_tnah")
