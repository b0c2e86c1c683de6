"""What all wrong elements have in common is said: columns, signs, sizes, one value; or nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.which_elements import Valued, which_elements
from tests.harness.diagnosis.drawn_errors import COLUMNS, ROWS, holding, right


def said(chosen, seed=0, halves=False, inputs=()):
    """The clause if the chosen elements, [R, C] bool or less, are noise."""
    errors = right(seed, halves=halves)
    noise = 3 * torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed + 1))
    return which_elements(holding(errors, torch.where(chosen, noise, errors.expected)), inputs)


NUMBER = torch.arange(COLUMNS)


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (NUMBER >= 128, "elements of columns 128-191"),
        (NUMBER % 2 == 1, "elements of odd columns"),
        (NUMBER // 32 == 1, "elements of columns 32-63"),
        (NUMBER == 5, "elements of column 5"),
        (NUMBER % 8 == 3, "elements of each 8th column, from 3"),
    ],
)
def test_columns(chosen, text):
    assert said(chosen) == f"in stage gemm1 only {text} are wrong"


def test_a_half_of_gate_and_up():
    assert "only elements of the up half are wrong" in said(NUMBER >= COLUMNS // 2, halves=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.booleans())
def test_signs_of_what_is_expected_and_of_an_input(seed, of_input):
    errors = right(seed)
    gate = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed + 2))
    name, values = ("gate", gate) if of_input else ("the expected value", errors.expected)
    inputs = (Valued(name="gate", values=gate),)
    text = said(values < 0, seed, inputs=inputs)
    assert text == f"in stage gemm1 only elements where {name} is negative are wrong"


def test_a_value_that_is_clamped():
    errors = right()
    text = which_elements(holding(errors, errors.expected.clamp(max=1.0)))
    assert "where the expected value is above 1" in text
    assert text.endswith("are wrong: all that are wrong are 1, as if clamped there")


def test_elements_that_nobody_wrote():
    errors = right()
    actual = torch.where(NUMBER % 3 == 1, torch.nan, errors.expected)
    text = which_elements(holding(errors, actual))
    assert text.endswith("NaN: never written, or computed from NaN")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0.05, 1.0))
def test_nothing_is_said_of_elements_that_chance_chose(seed, share):
    chosen = torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed + 9)) < share
    assert said(chosen, seed) is None


def test_one_wrong_value_for_one_right_one_is_not_clamped():
    """As of a scale that all rows share."""
    errors = right()
    one = dataclasses.replace(errors, expected=torch.ones_like(errors.expected), noun="scales")
    assert which_elements(holding(one, one.expected / 2)) is None


def test_values_of_both_signs_that_are_clamped():
    errors = right()
    text = which_elements(holding(errors, errors.expected.clamp(-1.0, 1.0)))
    assert text.endswith(": all that are wrong are +-1, as if clamped there")


def test_a_sharp_condition_goes_before_the_sign():
    errors = right()
    up = (Valued(name="up", values=errors.expected),)
    text = which_elements(holding(errors, errors.expected.clamp(max=0.8)), up)
    assert "where the expected value is above 0.8" in text


def test_nothing_is_said_of_the_values_of_ids_and_of_infinite_ones_no_clamp():
    errors = right()
    lost = holding(errors, torch.where(errors.expected > 0.5, -1.0, errors.expected))
    assert which_elements(dataclasses.replace(lost, noun="ids")) is None
    beyond = torch.where(errors.expected > 0.5, torch.inf, errors.expected)
    assert which_elements(holding(errors, beyond)).endswith(": all that are wrong are inf")
