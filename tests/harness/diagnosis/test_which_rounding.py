"""Values that are cut off and sums that are rounded after each term are named; noise is not."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.explanations import EXPLANATIONS, explanations
from harness.diagnosis.terms import Terms
from harness.diagnosis.which_rounding import (
    OF_TERMS,
    rounded_sums,
    rounded_terms,
    rounded_values,
    truncated,
)
from tests.harness.diagnosis.drawn_errors import COLUMNS, ROWS, holding, right

RULES = [e for e in EXPLANATIONS if e.name in ("which_rounding", "which_factor")]


def sums(seed, terms=8):
    """Terms [R, P, C], and what right sums may be off."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, terms, COLUMNS, generator=generator)


def causes_of(values, actual, by):
    expected = values.sum(dim=1)
    terms = Terms(
        noun="shares",
        actual=actual,
        expected=expected,
        tolerance=2.0**-9 * expected.norm(dim=1),
        is_wrong=torch.ones(ROWS, dtype=torch.bool),
        values=values,
        facts=(),
        stage="combine",
    )
    return list(by(terms))


def said(values, actual, by=rounded_sums):
    return " OR ".join(cause.cause for cause in causes_of(values, actual, by)) or None


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.booleans())
def test_a_sum_that_is_rounded_after_each_term(seed, from_the_last):
    values = sums(seed)
    total = torch.zeros(ROWS, COLUMNS)
    for number in reversed(range(8)) if from_the_last else range(8):
        total = (total + values[:, number]).bfloat16().float()
    end = ", from the last one on" if from_the_last else ""
    text = f"in stage combine the sum of 8 shares is rounded to bf16 after each{end}"
    assert said(values, total) == text


ROUNDED = {"e4m3": torch.float8_e4m3fn, "bf16": torch.bfloat16, "fp16": torch.float16}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.sampled_from(OF_TERMS))
def test_terms_that_are_rounded_before_they_are_added(seed, dtype):
    values = sums(seed)
    total = values.to(ROUNDED[dtype]).float().sum(dim=1)
    text = f"in stage combine each of the 8 shares is rounded to {dtype} before they are added"
    assert said(values, total, rounded_terms) == text


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.sampled_from([1e-4, 1e-3, 1e-2]))
def test_terms_that_are_noisy_are_not_rounded(seed, size):
    values = sums(seed)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed + 7))
    assert said(values, (values * (1 + size * noise)).sum(dim=1), rounded_terms) is None


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_of_noise_as_large_nothing_is_said(seed):
    values = sums(seed)
    noise = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed + 7))
    assert said(values, values.sum(dim=1) + 0.01 * noise) is None


def test_values_that_are_cut_off():
    errors = right()
    (cause,) = rounded_values(holding(errors, truncated(errors.expected)))
    assert cause.cause == (
        "in stage gemm1 all values are truncated to bf16, not rounded to the nearest"
    )
    assert cause.residual < 0.01


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float8_e4m3fn, "e4m3"), (torch.float8_e5m2, "e5m2")]
)
def test_values_that_are_in_eight_bits(dtype, name):
    errors = right()
    (cause,) = rounded_values(holding(errors, errors.expected.to(dtype).float()))
    assert cause.cause == f"in stage gemm1 all values are rounded to {name} and should not be"


def test_values_that_are_doubled_are_not_cut_off():
    errors = right()
    assert list(rounded_values(holding(errors, errors.expected * 2))) == []


def test_of_values_that_both_roundings_give_both_are_said():
    errors = right()
    is_same = truncated(errors.expected) == errors.expected.bfloat16().float()
    few = dataclasses.replace(
        errors,
        expected=torch.where(is_same, errors.expected, 1.0),
        tolerance=errors.tolerance * 1e-3,
    )
    causes = [cause.cause for cause in rounded_values(holding(few, few.expected))]
    assert causes == [
        "in stage gemm1 all values are truncated to bf16, not rounded to the nearest",
        "in stage gemm1 all values are rounded to bf16 more than they should be",
    ]


def test_scales_in_the_dtype_of_the_tokens_are_rounded_and_nothing_else():
    errors = dataclasses.replace(right(), noun="scales", stage="dispatch")
    errors = dataclasses.replace(errors, tolerance=errors.tolerance * 1e-3)
    evidence = SimpleNamespace(errors=errors, subject=None)
    (cause,), faults = explanations(evidence, RULES)
    assert (
        cause.cause == "in stage dispatch all scales are rounded to bf16 more than they should be"
    )
    assert faults == []


def test_sums_of_few_bits_that_lie_half_a_step_from_two_values():
    """Three rounded terms: one sum of twenty went to the other value by its last bit."""
    values = sums(3, terms=3)
    actual = values.bfloat16().float().sum(dim=1).bfloat16().float()
    (cause,) = causes_of(values, actual, rounded_terms)
    assert cause.residual < 1e-3
