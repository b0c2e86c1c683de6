"""How often each term is in a row is solved for, and whether that leaves more than noise."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis.terms import Terms, counted, left_by, relative_size

ROWS, COUNT, COLUMNS = 6, 3, 64
GENERATOR = torch.Generator().manual_seed(3)
VALUES = torch.randn(ROWS, COUNT, COLUMNS, generator=GENERATOR)


def terms(times, tolerance=0.01, values=VALUES, noise=0.0):
    noise = noise * torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(4))
    return Terms(
        noun="shares",
        actual=torch.einsum("rp,rpc->rc", times, values) + noise,
        expected=values.sum(dim=1),
        tolerance=torch.full((ROWS,), tolerance),
        is_wrong=(times != 1).any(dim=1),
        values=values,
        facts=(),
    )


TIMES = 3 * torch.rand(ROWS, COUNT, generator=GENERATOR)


def test_counts_are_those_of_the_sum():
    counts = counted(terms(TIMES))
    torch.testing.assert_close(counts.value.float(), TIMES, rtol=1e-4, atol=1e-4)
    assert bool(counts.explained.all())


def test_the_error_of_a_count_covers_what_noise_within_the_tolerance_does():
    counts = counted(terms(TIMES, tolerance=1.0, noise=0.1))
    assert bool(((counts.value - TIMES).abs() <= counts.error).all())
    assert float(counts.error.amax()) < 1


def test_a_row_that_is_no_sum_is_not_explained():
    other = terms(TIMES)
    other.actual[2] = other.actual[2].roll(1)
    assert counted(other).explained.tolist() == [True, True, False, True, True, True]
    other.actual[4, 0] = torch.nan
    assert counted(other).explained.tolist()[4] is False


def test_a_term_that_a_row_lacks_counts_once_and_is_none():
    values = VALUES.clone()
    values[1, 2] = 0
    lacking = terms(TIMES, values=values)
    assert not bool(lacking.has_term[1, 2])
    assert int(lacking.has_term.sum()) == ROWS * COUNT - 1
    assert float(counted(lacking).value[1, 2]) == pytest.approx(1)


def test_what_a_prediction_leaves():
    wrong = terms(TIMES)
    fits, residual = left_by(wrong, wrong.changed_by(TIMES))
    assert bool(fits.all())
    assert residual < 1e-4
    fits, residual = left_by(wrong, wrong.expected)
    assert not bool(fits.any())
    assert residual == pytest.approx(1)


def test_larger_rows_may_be_off_by_more():
    expected = torch.ones(3, 4)
    predicted = expected * torch.tensor([[0.5], [1.0], [4.0]])
    assert relative_size(predicted, expected).tolist() == [1, 1, 4]


def test_columns_are_chosen_in_all_that_has_columns():
    part = terms(TIMES).in_columns(torch.arange(COLUMNS) < 16)
    assert part.actual.shape == part.expected.shape == (ROWS, 16)
    assert part.values.shape == (ROWS, COUNT, 16)
    assert part.where == "in the wrong columns only"
