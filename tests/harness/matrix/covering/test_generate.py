"""The generator's rows are accepted, have every feasible combination, and are few."""

import math
import random

import pytest

from harness.matrix.covering.generate import Generator, _shuffled, cover
from harness.matrix.covering.model import Refused, all_targets
from harness.matrix.covering.oracle import Oracle
from tests.harness.matrix.covering.models import constrained, feasible, named


def rows_of(model):
    return cover(model, Oracle(model))


def uncovered(model, rows):
    """Of every target, the feasible combinations of the listed product that no row has."""
    return {
        target: missing
        for target in model.targets
        if (missing := feasible(model, target) - {tuple(r[f] for f in target) for r in rows})
    }


@pytest.mark.parametrize("strength", [1, 2, 3])
@pytest.mark.parametrize("seed", range(25))
def test_every_feasible_combination_is_covered_by_accepted_rows(seed, strength):
    model = constrained(seed, strength=strength, rules=12)
    rows = rows_of(model)
    assert uncovered(model, rows) == {}
    assert [row for row in rows if model.refuse(model.row(row)) is not None] == []


def test_each_row_adds_something():
    model = constrained(7, strength=2)
    rows = rows_of(model)
    assert all(uncovered(model, rows[:i]) for i in range(len(rows)))


def test_equal_models_get_equal_rows():
    assert rows_of(constrained(5)) == rows_of(constrained(5))


def test_a_submodel_is_combined_more_strongly():
    model = named((3, 3, 3, 3, 3), (*all_targets(5, 2), (0, 1, 2)))
    rows = rows_of(model)
    assert uncovered(model, rows) == {}
    assert 27 <= len(rows) <= 29


def test_what_earlier_cases_have_is_not_repeated():
    model = constrained(2, strength=2)
    rows = rows_of(model)
    before = [*(dict(enumerate(row)) for row in rows[:6]), {0: rows[6][0]}]
    more = cover(model, Oracle(model), before)
    assert uncovered(model, (*rows[:6], *more)) == {}
    assert len(more) <= len(rows) - 5


def test_a_model_without_accepted_rows_has_none():
    refused = Refused(code="no", factors=frozenset({0}))
    assert rows_of(named((2, 2), all_targets(2, 2), refuse=lambda _: refused)) == ()


def test_a_model_without_factors_has_one_row():
    assert rows_of(named((), ((),))) == ((),)


@pytest.mark.parametrize(
    ("sizes", "strength", "limit"),
    [
        ((3,) * 4, 2, 1.0),
        ((13, 13, 6, 5, 10, 5, 3, 3, 2, 2, 2, 3, 2), 2, 1.02),
        ((8, 7, 6, 5, 4, 3, 3, 2, 2), 3, 1.1),
    ],
)
def test_rows_are_few(sizes, strength, limit):
    """The bound is the product of the largest sizes: each of these combinations needs a row."""
    rows = rows_of(named(sizes, all_targets(len(sizes), strength)))
    assert len(rows) <= limit * math.prod(sorted(sizes)[-strength:])


def test_more_tries_make_fewer_rows():
    model = named((5,) * 8, all_targets(8, 2))

    def count(tries):
        return len(list(Generator(model, Oracle(model), tries=tries).rows()))

    assert count(20) < count(1)


def test_earlier_cases_may_be_equal():
    model = constrained(2, strength=2)
    before = [dict(enumerate(row)) for row in rows_of(model)[:3]]
    assert cover(model, Oracle(model), before * 50) == cover(model, Oracle(model), before)


def test_rows_that_are_needed_least_are_packed_again():
    model = named((5,) * 8, all_targets(8, 2))
    before = [dict(enumerate(next(model.tuples(tuple(range(8))))))]
    plain, packed = (Generator(model, Oracle(model), tries=2) for _ in range(2))
    for row in before:
        plain.missing.remove_row(row)
    made = list(plain.rows())
    rows = packed.after(before)
    covered = [tuple(before[0].values()), *rows]
    for a, b in model.targets:  # without constraints, every pair is feasible
        assert {(row[a], row[b]) for row in covered} == set(model.tuples((a, b)))
    assert len(rows) < len(made)


def test_a_seed_shuffles_alike_under_every_python():
    assert _shuffled(range(8), random.Random(1)) == [3, 6, 1, 5, 7, 0, 4, 2]
    orders = {tuple(_shuffled(range(3), random.Random(seed))) for seed in range(100)}
    assert len(orders) == 6
