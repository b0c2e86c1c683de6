"""A drawn factor of all elements, or of rows, columns or blocks, is said; of noise nothing is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.which_factor import which_factor
from tests.harness.diagnosis.drawn_errors import COLUMNS, ROWS, holding, right


def said(factor, seed=0):
    """The statement if the elements are multiplied by this."""
    errors = right(seed)
    cause = which_factor(holding(errors, errors.expected * factor))
    return None if cause is None else cause.cause


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (2.0, "all values are 2 times what they should be"),
        (-1.0, "all values have the wrong sign"),
        (0.0, "all values are zero"),
        (448.0, "all values are 448 times what they should be"),
        (2.0**-6, "all values are 0.0156 times what they should be (2^-6)"),
    ],
)
def test_one_factor_of_all(factor, text):
    assert said(factor) == f"in stage gemm1 {text}"


def test_factors_that_differ_by_little_are_not_one():
    """As of weights that each token divides by another sum: .938 to .948 times."""
    errors = right()
    exact = dataclasses.replace(errors, tolerance=1e-6 * errors.expected.abs() + 1e-30)
    factor = torch.linspace(0.938, 0.948, ROWS)[:, None]
    cause = which_factor(holding(exact, exact.expected * factor)).cause
    assert cause.endswith("off by another factor for each row, as by a wrong scale: 0.938 to 0.948")
    assert which_factor(holding(exact, exact.expected * 1.99)).cause.endswith(
        "1.99 times what they should be"
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.floats(1.1, 30.0), st.sampled_from([64, 32, 16]), st.data())
def test_a_factor_of_one_block_of_columns(seed, value, block, data):
    number = data.draw(st.integers(1, COLUMNS // block - 2))
    factor = torch.ones(COLUMNS)
    factor[number * block : (number + 1) * block] = value
    columns = f"columns {number * block}-{(number + 1) * block - 1}"
    assert said(factor, seed).startswith(f"in stage gemm1 the values of {columns} are ")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from(["row", "column", "expert"]))
def test_a_factor_for_each(seed, each):
    generator = torch.Generator().manual_seed(seed)
    if each == "row":
        factor = torch.rand(ROWS, 1, generator=generator) + 1.1
    elif each == "column":
        factor = torch.rand(COLUMNS, generator=generator) + 1.1
    else:
        factor = torch.tensor([1.5, 2.2, 1.2]).repeat_interleave(8)[:, None]
    expected = f"all values are off by another factor for each {each}, as by a wrong scale: "
    assert said(factor, seed).startswith(f"in stage gemm1 {expected}")


def test_powers_of_two_are_said_to_be_some():
    factor = 2.0 ** torch.randint(-3, 0, (COLUMNS,), generator=torch.Generator().manual_seed(0))
    text = said(factor)
    assert text == (
        "in stage gemm1 all values are off by powers of two, another for each column: 0.125 to 0.5"
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.floats(0.05, 1.0))
def test_of_noise_nothing_is_said(seed, size):
    noise = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed + 5000))
    assert said(1 + size * noise, seed) is None


def test_of_a_mixture_nothing_is_said():
    """Each second element twice, by chance: no group of rows or columns has one factor."""
    chosen = torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(3)) < 0.5
    assert said(torch.where(chosen, 2.0, 1.0)) is None


def test_single_rows_are_called_by_their_numbers_and_not_by_their_experts():
    """It was "the values of experts 0, 0": of an expert of which other rows were right."""
    factor = torch.ones(ROWS, 1)
    factor[[2, 3, 9]] = 0
    assert said(factor) == "in stage gemm1 the values of gathered rows 2-3, 9 are zero"


def test_a_factor_of_rows_whose_values_are_exact_but_for_their_dtype():
    """An input that is weighted wrongly: no error is allowed, but products are rounded."""
    errors = right()
    exact = dataclasses.replace(
        errors, expected=errors.actual, tolerance=torch.full_like(errors.tolerance, 1e-30)
    )
    factor = torch.linspace(1.2, 1.9, ROWS)[:, None]
    cause = which_factor(holding(exact, exact.expected * factor))
    assert cause.cause.startswith(
        "in stage gemm1 all values are off by another factor for each row"
    )
    noise = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) / 64
    assert which_factor(holding(exact, exact.expected * (factor + noise))) is None


def test_factors_near_one_that_differ_are_not_called_one():
    """Rows off by up to a hundredth, such as scales in fewer bits, have no factor in common."""
    errors = right()
    exact = dataclasses.replace(errors, tolerance=errors.tolerance * 1e-4)
    factor = torch.linspace(0.992, 1.01, ROWS)[:, None]
    cause = which_factor(dataclasses.replace(exact, actual=errors.expected * factor))
    expected = "all values are off by another factor for each row, as by a wrong scale: 0.992 to 1."
    assert cause.cause.startswith(f"in stage gemm1 {expected}")
    same = which_factor(dataclasses.replace(exact, actual=errors.expected * 1.009))
    assert same.cause == "in stage gemm1 all values are 1.009 times what they should be"


@pytest.mark.parametrize("noun", ["ids", "counts of tokens", "adapters"])
def test_whole_numbers_have_no_factor(noun):
    """Ids of 1 that were lost, so that -1 is in their place, had "the wrong sign"."""
    errors = right()
    wrong = holding(errors, -errors.expected)
    assert which_factor(wrong) is not None
    assert which_factor(dataclasses.replace(wrong, noun=noun)) is None


def test_memory_that_holds_something_else_is_no_wrong_scale():
    """A factor for each row explains any scales of rows: those that none can be are called so."""
    scales = torch.linspace(0.01, 0.02, ROWS)[:, None].expand(-1, COLUMNS)
    exact = dataclasses.replace(right(), noun="scales", actual=scales, expected=scales)
    exact = dataclasses.replace(exact, tolerance=2.0**-20 * scales)

    def held(values):
        other = values[:, None].expand(-1, COLUMNS)
        return which_factor(dataclasses.replace(exact, actual=other)).cause

    some = 0.01 + 0.01 * torch.rand(ROWS, generator=torch.Generator().manual_seed(1))
    assert "off by another factor for each row, as by a wrong scale" in held(some)
    text = "all scales are no scales, as of memory that holds something else: {}, expected 0.01"
    assert text.format("-9 to 0.0194") in held(torch.where(torch.arange(ROWS) == 3, -9.0, some))
    assert "are no scales" in held(torch.where(torch.arange(ROWS) == 3, 1e6, some))
