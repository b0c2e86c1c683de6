"""Each formula of an activation is recognised by its values; of noise nothing is said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.activation_formulas import formulas
from harness.diagnosis.stage_errors import StageErrors
from harness.diagnosis.which_function import which_function
from moe.reference import formats
from moe.reference.activation import activation_of

ROWS, COLUMNS = 24, 64
NAMES = ["silu", "gelu", "gelu_tanh", "relu2", "swiglu_clamped", "silu_no_mul"]


def inputs(name, seed=0):
    """The activation, gate, up (None if it is not gated) and the right values."""
    activation = activation_of(name)
    generator = torch.Generator().manual_seed(seed)
    gate, up = 2 * torch.randn(2, ROWS, COLUMNS, generator=generator)
    up = up if activation.gated else None
    if activation.limit is not None:
        gate, up = gate * activation.limit / 3, up * activation.limit / 3
    return activation, gate, up, activation(gate, up)


def errors_of(expected, actual, dtype="bf16"):
    """Both as a stage in bf16, or in float32, which is right to 2**-20."""
    step = formats.step_of(expected.abs(), "bf16") * 0.6
    tolerance = step if dtype == "bf16" else 2.0**-20 * expected.abs()
    held = actual.bfloat16().float() if dtype == "bf16" else actual
    return StageErrors(
        stage="activation",
        noun="elements",
        actual=held,
        expected=expected,
        tolerance=tolerance.clamp(min=1e-30),
        numbers=torch.arange(ROWS),
        facts=(),
    )


def said(name, actual, seed=0, dtype="bf16"):
    activation, gate, up, expected = inputs(name, seed)
    given_values = gate, up, torch.ones(ROWS, 1)
    causes = which_function(errors_of(expected, actual, dtype), activation, given_values)
    return [cause.cause.removeprefix("in stage activation ") for cause in causes]


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("name", NAMES)
def test_each_formula_is_named_by_its_values(name, dtype):
    """Or another one whose values are the same to what noise leaves."""
    activation, gate, up, expected = inputs(name)
    others = [
        (t, v) for t, v in formulas(activation, gate, up) if " and " not in t or " have " in t
    ]
    assert len(others) > 10
    named = 0
    for text, value in others:
        errors = errors_of(expected, value, dtype)
        wrong = errors.is_wrong
        if int(wrong.sum()) < 8 or not bool(value.isfinite().all()):
            continue
        alike = {t for t, v in others if errors.left_by(v) is not None}
        texts = said(name, value, dtype=dtype)
        assert texts, text
        assert set(texts) <= alike
        named += 1
    assert named > 8


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.sampled_from(["silu", "gelu"]), st.floats(0.5, 2.5))
def test_a_clamp_of_the_gate(seed, name, limit):
    activation, gate, up, _ = inputs(name, seed)
    limit = round(limit, 1)
    texts = said(name, activation(gate.clamp(max=limit), up), seed)
    assert texts == [f"the gate is clamped from above at {limit:.3g}"]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.sampled_from(["silu", "gelu"]), st.floats(0.5, 2.5), st.booleans())
def test_a_clamp_of_up(seed, name, limit, is_above):
    activation, gate, up, _ = inputs(name, seed)
    limit = round(limit, 1)
    clamped = up.clamp(max=limit) if is_above else up.clamp(min=-limit)
    side = f"above at {limit:.3g}" if is_above else f"below at {-limit:.3g}"
    assert said(name, activation(gate, clamped), seed) == [f"up is clamped from {side}"]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.floats(1.2, 1.6))
def test_a_factor_in_the_sigmoid(seed, alpha):
    _, gate, up, _ = inputs("silu", seed)
    alpha = round(alpha, 1)
    texts = said("silu", gate * torch.sigmoid(alpha * gate) * up, seed)
    assert texts == [f"the function of the gate is gate * sigmoid({alpha:.4g} * gate)"]


def test_a_function_that_nobody_lists_is_told_by_its_values():
    _, gate, up, _ = inputs("silu")
    (text,) = said("silu", torch.atan(gate) * up)
    assert text.startswith("up is as it should be, but the gate's function is another one: ")
    assert "0.785 at 0.998 where 0.729 is right" in text


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.sampled_from(NAMES), st.floats(0.05, 1.0))
def test_of_noise_nothing_is_said(seed, name, size):
    *_, expected = inputs(name, seed)
    noise = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed + 5000))
    assert said(name, expected * (1 + size * noise), seed) == []


def test_of_two_functions_by_chance_nothing_is_said():
    activation, gate, up, expected = inputs("silu")
    chosen = torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1)) < 0.5
    assert said("silu", torch.where(chosen, expected, activation(up, gate))) == []


def test_errors_of_one_rounding_that_no_formula_gives_have_no_statement():
    """Each is within what a formula's noise may be, so all formulas near the right one fit."""
    *_, expected = inputs("silu")
    right = expected.bfloat16().float()
    step = formats.step_of(expected.abs(), "bf16")
    neighbour = torch.where(right > expected, right - step, right + step)
    error = (neighbour - expected).abs() / step
    moved = torch.where((error > 0.65) & (error < 0.85), neighbour, right)
    assert int(errors_of(expected, moved).is_wrong.sum()) > 50
    assert said("silu", moved) == []
