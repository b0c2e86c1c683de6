"""Whose weights wrong rows were multiplied with is named, also of a single row."""

from __future__ import annotations

import torch

from harness.diagnosis.which_expert import Matrix, Rows, which_expert
from tests.harness.diagnosis.drawn_errors import by_row, of_product

INNER, COLUMNS, SIZES = 32, 48, (5, 1, 4)  # rows of the rank's experts 0, 1 and 2, of four
START = "in stage gemm1 rows are multiplied with the weights of another expert: rows of expert "


def drawn(has_bias=True):
    draw = torch.Generator().manual_seed(2)
    table = {
        e: Matrix(
            w=torch.randn(COLUMNS, INNER, generator=draw),
            bias=torch.randn(COLUMNS, generator=draw) if has_bias else None,
        )
        for e in range(4)
    }
    numbers = torch.split(torch.arange(sum(SIZES)), SIZES)
    rows = [
        Rows(expert=e, numbers=n, x=torch.randn(len(n), INNER, generator=draw))
        for e, n in enumerate(numbers)
    ]
    return rows, table


def said(sources, change=lambda actual: actual, has_bias=True):
    """The statement if the rows of each expert were the products of another."""
    rows, table = drawn(has_bias)
    expected = torch.cat([table[one.expert].of(one.x) for one in rows])
    actual = torch.cat([table[sources.get(one.expert, one.expert)].of(one.x) for one in rows])
    errors = of_product(expected, change(actual), least=1e-3, facts=by_row(expected))
    causes = [cause.cause for cause in which_expert(errors, rows, table)]
    return causes[0].removeprefix(START) if causes else None


def test_whose_weights_they_are():
    assert said({1: 3}) == "1 with those of 3"
    assert said({1: 3}, has_bias=False) == "1 with those of 3"
    assert said({0: 1, 1: 0}) == "0 with those of 1, 1 with those of 0"


def test_nothing_is_said_of_rows_that_are_wrong_otherwise():
    assert said({}) is None
    assert said({1: 3}, lambda actual: actual + 0.5) is None
    assert said({}, lambda actual: actual * 2) is None

    def noisy(row):
        def changed(actual):
            actual[row, ::4] += 0.5
            return actual

        return changed

    assert said({1: 3}, noisy(1)) is None  # a row of expert 0
    assert said({1: 3}, noisy(5)) is None  # the only one of expert 1
