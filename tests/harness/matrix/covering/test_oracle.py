"""The oracle knows exactly which values can be combined, and does not judge the product for it."""

import itertools

import pytest

from harness.matrix.covering.model import Refused, all_targets
from harness.matrix.covering.oracle import Oracle
from tests.harness.matrix.covering.models import accepted_rows, constrained, feasible, named


@pytest.mark.parametrize("seed", range(40))
def test_it_agrees_with_the_listed_product(seed):
    model = constrained(seed, rules=14)
    oracle = Oracle(model)
    for width in (1, 2, 3):
        for target in itertools.combinations(range(len(model.sizes)), width):
            for combination in model.tuples(target):
                row = oracle.complete(combination)
                assert (row is not None) == (combination in feasible(model, target))
                assert row is None or set(combination) <= set(row)
                assert row is None or model.refuse(model.row(row)) is None


def test_a_row_has_the_preferred_values_that_can_be_combined():
    model = constrained(1, rules=0)
    last = Oracle(model).complete((1,), prefer=lambda f, _: reversed(model.literals[f]))
    assert model.row(last) == (1, 2, 2, 1, 1)


def test_reasons_are_the_codes_of_the_refusals_that_exclude_a_combination():
    def refuse(row):
        if row[0] == 0 and row[1] == 0:
            return Refused(code="first", factors=frozenset({0, 1}))
        if row[0] == 0 and row[1] == 1 and row[2] == 0:
            return Refused(code="second", factors=frozenset({0, 1, 2}))
        return None

    oracle = Oracle(named((2, 2, 2), (), refuse=refuse))
    assert oracle.reasons((0, 2)) == {"first"}
    assert oracle.reasons((0, 4)) == {"first", "second"}  # either value of the second factor
    assert oracle.reasons((0, 5)) == frozenset()
    assert oracle.exclusions() == [(0, 2), (0, 4)]


def test_a_model_that_refuses_every_row_has_the_empty_exclusion():
    refused = Refused(code="no", factors=frozenset())
    oracle = Oracle(named((2, 2), (), refuse=lambda _: refused))
    assert oracle.complete(()) is None
    assert oracle.reasons((0,)) == {"no"}
    assert oracle.exclusions() == [()]
    assert oracle.judged == 1


def test_few_rows_of_a_large_product_are_judged():
    sizes = (20, 15, 12, 10, 8, 6, 5, 4, 3, 3, 2, 2)

    def refuse(row):
        if row[0] > 10 and row[1] != 3:
            return Refused(code="a", factors=frozenset({0, 1}))
        if sum(row[:3]) > 35:
            return Refused(code="b", factors=frozenset({0, 1, 2}))
        return None

    model = named(sizes, all_targets(len(sizes), 2), refuse=refuse)
    oracle = Oracle(model)
    for target in model.targets:
        for pair in model.tuples(target):
            oracle.complete(pair)
    assert oracle.judged < 6000  # of 2.5e9; there are 3,264 pairs


def test_exclusions_allow_exactly_the_accepted_rows_of_a_small_model():
    model = constrained(3, rules=10)
    oracle = Oracle(model)
    for row in itertools.product(*model.literals):
        oracle.complete(row)
    exclusions = [set(e) for e in oracle.exclusions()]
    allowed = [
        model.row(row)
        for row in itertools.product(*model.literals)
        if not any(e <= set(row) for e in exclusions)
    ]
    assert allowed == accepted_rows(model)
    assert not any(a < b for a in exclusions for b in exclusions)
