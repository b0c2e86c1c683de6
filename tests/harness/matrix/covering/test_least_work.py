"""Rows with less work are accepted, as many, and have every combination that the others had."""

import pytest

from harness.matrix.covering.generate import cover
from harness.matrix.covering.least_work import with_least_work
from harness.matrix.covering.model import all_targets
from harness.matrix.covering.oracle import Oracle
from tests.harness.matrix.covering.models import constrained, named


def covered(model, rows):
    return {t: {tuple(row[f] for f in t) for row in rows} for t in model.targets}


def indices(model, row):
    return sum((f + 1) * value for f, value in enumerate(model.row(row)))


@pytest.mark.parametrize("strength", [2, 3])
@pytest.mark.parametrize("seed", range(12))
def test_what_was_covered_still_is_by_accepted_rows_with_less_work(seed, strength):
    model = constrained(seed, strength=strength, rules=12)
    oracle = Oracle(model)
    rows = cover(model, oracle)
    cheap = with_least_work(rows, (), oracle, lambda row: indices(model, row))
    assert covered(model, cheap) == covered(model, rows)
    assert len(cheap) == len(rows)
    assert all(model.refuse(model.row(row)) is None for row in cheap)
    assert sum(indices(model, r) for r in cheap) <= sum(indices(model, r) for r in rows)


def test_a_dear_value_stays_only_where_its_combinations_need_it():
    """Each value of the second factor meets the dear one once; the other rows can do without."""
    model = named((2, 8, 8), all_targets(3, 2))
    oracle = Oracle(model)
    rows = cover(model, oracle)
    cheap = with_least_work(rows, (), oracle, lambda row: 1 + 9 * (row[0] == 1))
    assert sum(row[0] == 1 for row in rows) > 20
    assert sum(row[0] == 1 for row in cheap) < 14
    assert covered(model, cheap) == covered(model, rows)


def test_what_earlier_rows_have_need_not_be_kept():
    model = named((2, 2), all_targets(2, 2))
    oracle = Oracle(model)
    rows = ((0, 2), (0, 3), (1, 2), (1, 3))
    before = [{0: 1, 1: 3}, {0: 0}]
    assert with_least_work(rows, (), oracle, sum) == rows
    assert with_least_work(rows, before, oracle, sum) == (*rows[:3], (0, 2))


def test_equal_rows_get_equal_ones():
    model = constrained(3, strength=2)
    oracle = Oracle(model)
    rows = cover(model, oracle)
    first = with_least_work(rows, (), oracle, lambda row: indices(model, row))
    again = with_least_work(rows, (), Oracle(model), lambda row: indices(model, row))
    assert first == again
