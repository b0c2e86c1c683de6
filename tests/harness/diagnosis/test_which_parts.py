"""Ends, scaled blocks and offsets of a product's weights are recognised; of noise nothing is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.which_parts import Operands, which_parts
from tests.harness.diagnosis.drawn_errors import by_row, of_product

ROWS, INNER, COLUMNS, EXPERTS = 8, 256, 128, 2  # rows of each expert


def operands(seed=0, rows=ROWS):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    return [
        Operands(
            expert=e,
            rows=torch.arange(e * rows, (e + 1) * rows),
            x=draw(rows, INNER),
            w=draw(COLUMNS, INNER),
        )
        for e in range(EXPERTS)
    ]


def product(given_operands):
    return torch.cat([one.x @ one.w.T for one in given_operands])


def with_weights(given_operands, change):
    return [dataclasses.replace(one, w=change(one.w.clone())) for one in given_operands]


def said(given_operands, actual):
    """The statements about this product, rounded to bf16."""
    expected = product(given_operands)
    errors = of_product(expected, actual, least=1e-3, facts=by_row(expected))
    causes = which_parts(errors, given_operands)
    return [cause.cause.removeprefix("in stage gemm1 ") for cause in causes]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 99), st.integers(1, 16), st.booleans())
def test_an_end_of_the_inner_dimension_that_is_left_out(seed, length, is_last):
    right = operands(seed)

    def without(w):
        w[:, INNER - length :] *= not is_last
        w[:, :length] *= is_last
        return w

    end = f"k >= {INNER - length}, the last" if is_last else f"k < {length}, the first"
    text = f"the products of {end} {length} of {INNER}, are left out"
    assert said(right, product(with_weights(right, without))) == [text]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 99), st.integers(0, 3), st.integers(0, 3))
def test_a_scale_of_one_block_of_columns_and_of_the_inner_dimension(seed, down, across):
    right = operands(seed)

    def scaled(w):
        w[down * 32 : (down + 1) * 32, across * 64 : (across + 1) * 64] *= 2.5
        return w

    (text,) = said(right, product(with_weights(right, scaled)))
    columns = f"columns {down * 32}-{down * 32 + 31}"
    assert text.startswith("the products of ")
    assert text.endswith(" count 2.5 times")
    assert f"k {across * 64}-{across * 64 + 63}" in text
    assert columns in text


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 99))
def test_scales_of_the_first_blocks_for_the_last_ones(seed):
    right = operands(seed)
    times = torch.rand(COLUMNS // 32, 2, generator=torch.Generator().manual_seed(seed)) + 1.5

    def scaled(w):
        blocks = times.repeat_interleave(32, dim=0).repeat_interleave(64, dim=1)
        w[:, 128:] *= blocks
        return w

    (text,) = said(right, product(with_weights(right, scaled)))
    assert text.startswith("the products of k >= 128 count by another factor for each block of 64 ")
    assert "as by wrong scales" in text


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 99), st.booleans())
def test_zero_points_of_some_blocks(seed, is_all):
    right = operands(seed)
    generator = torch.Generator().manual_seed(seed)

    def moved(w):
        offset = torch.randn(COLUMNS, 4, generator=generator).repeat_interleave(64, dim=1)
        offset[:, :64] *= is_all
        return w + offset

    (text,) = said(right, product(with_weights(right, moved)))
    which = "" if is_all else " of k 64-255"
    assert text == (
        f"the weights{which} are off by one amount for each column and block of 64 of k, as by "
        "wrong zero points"
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 999), st.floats(0.02, 1.0))
def test_of_noise_nothing_is_said(seed, size):
    right = operands(seed)
    generator = torch.Generator().manual_seed(seed + 5000)
    noise = torch.randn(EXPERTS * ROWS, COLUMNS, generator=generator)
    assert said(right, product(right) * (1 + size * noise)) == []


@pytest.mark.parametrize("rows", [4, 8])
def test_of_other_weights_nothing_is_said(rows):
    right = operands(0, rows)
    other = [dataclasses.replace(one, w=w.w) for one, w in zip(right, operands(7), strict=True)]
    assert said(right, product(other)) == []
