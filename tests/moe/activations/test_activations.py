"""Each activation's member, its twin in the reference, and what its row says of it."""

import math
import re

import pytest
import torch

from moe.activations import ACTIVATIONS
from moe.errors import MoEError
from moe.spec import ANY, Needs, Platform, Problem, experts_refusal, resolve

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


def test_twins_are_the_functions_of_their_names():
    one, up = torch.tensor([1.0]).double(), torch.tensor([2.0]).double()
    silu = resolve(ACTIVATIONS.row("silu").truth)(one, up).value
    gelu = resolve(ACTIVATIONS.row("gelu_tanh").truth)(one, up).value
    assert float(silu) == pytest.approx(2 / (1 + math.exp(-1)), rel=1e-12)
    inner = math.sqrt(2 / math.pi) * 1.044715
    assert float(gelu) == pytest.approx(1 + math.tanh(inner), rel=1e-12)


def test_an_activation_that_a_row_does_not_name_is_not_supported():
    sizes = {"m": 1, "hidden": 8, "intermediate": 8, "num_experts": 2, "top_k": 1}
    problem = Problem(**sizes, activation="gelu_tanh")
    reason = experts_refusal(Needs(), problem, CHIP)
    assert (reason.code, reason.text) == (
        "activation_unsupported",
        "computes the activation silu, not gelu_tanh",
    )
    assert experts_refusal(Needs(), Problem(**sizes), CHIP) is None
    assert experts_refusal(Needs(activation_functions=ANY), problem, CHIP) is None


def test_an_unknown_activation_names_those_there_are():
    text = "no activation is called 'gelu_tnah', did you mean 'gelu_tanh'"
    with pytest.raises(MoEError, match=re.escape(text)):
        ACTIVATIONS.row("gelu_tnah")
