"""Each activation's member, its twin in the reference, and what its row says of it."""

import dataclasses
import re

import pytest
import torch

from moe.activations import ACTIVATIONS
from moe.errors import MoEError
from moe.kernels.activation import FUNCTIONS, activated_torch
from moe.reference.activation import activation_of
from moe.spec import resolve

ROWS = list(ACTIVATIONS)


def row_id(row):
    return row.name


def inputs(row, dtype=torch.float32):
    gate = torch.linspace(-12, 12, 4001, dtype=dtype)
    return gate, torch.linspace(9, -8, 4001, dtype=dtype) if row.gated else None


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_a_member_differs_from_its_twin_by_float32_noise_at_most(row):
    gate, up = inputs(row)
    got = resolve(row.target)()(gate, up)
    truth = activation_of(row.name)
    f = truth.of_gate(gate.double())
    value, noise = f.value, f.noise
    if up is not None:
        factor = truth.of_up(up.double()).value
        value, noise = value * factor, noise * factor.abs() + value.abs() * 2.0**-23
    assert bool(((got - value).abs() <= 2 * noise + 1e-38).all())


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_a_twin_has_the_sizes_of_its_derivatives(row):
    gate, up = inputs(row, torch.float64)
    known = [t.requires_grad_() for t in (gate, up) if t is not None]
    resolve(row.target)()(gate, up).sum().backward()
    truth = activation_of(row.name)
    with torch.no_grad():
        f, factor = truth.of_gate(gate), None if up is None else truth.of_up(up)
        by_gate = f.slope if factor is None else f.slope * factor.value.abs()
        assert torch.allclose(by_gate, known[0].grad.abs(), rtol=1e-9, atol=1e-12)
        if factor is not None:
            by_up = factor.slope * f.value.abs()
            assert torch.allclose(by_up, known[1].grad.abs(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("row", [r for r in ROWS if r.function in FUNCTIONS], ids=row_id)
def test_the_kernels_function_and_parameters_are_the_members(row):
    gate, up = inputs(row)
    h = gate[None] if up is None else torch.cat([gate, up])[None]
    wanted = resolve(row.target)()(gate, up)
    assert torch.allclose(activated_torch(h, row.name)[0], wanted, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("row", [r for r in ROWS if r.identity_from], ids=row_id)
@pytest.mark.parametrize("of", ["target", "truth"])
def test_large_gates_pass_as_they_are(row, of):
    large = torch.tensor([0.0, row.identity_from, 2.5 * row.identity_from, 4096.0])
    one = torch.ones_like(large) if row.gated else None
    function = resolve(row.target)() if of == "target" else activation_of(row.name)
    assert torch.equal(function(large, one), large)


def test_an_unknown_activation_names_those_there_are():
    text = "no activation is called 'gelu_tnah', did you mean 'gelu_tanh'"
    with pytest.raises(MoEError, match=re.escape(text)):
        ACTIVATIONS.row("gelu_tnah")


def test_parameters_that_mean_nothing_are_refused():
    row = ACTIVATIONS.row("silu")
    with pytest.raises(ValueError, match="has beta 1, which is added to up, but is not gated"):
        dataclasses.replace(row, gated=False, beta=1.0)
    with pytest.raises(ValueError, match="has limit 0; it must be positive, or None"):
        dataclasses.replace(row, limit=0.0)
