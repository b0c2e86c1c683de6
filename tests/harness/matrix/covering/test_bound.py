"""No suite is below the bound, and constraints raise it as far as they should."""

import ast
import itertools
import random
from pathlib import Path

import pytest

from harness.matrix.covering import bound
from harness.matrix.covering.bound import lower_bound
from harness.matrix.covering.model import Refused, all_targets
from tests.harness.matrix.covering.models import accepted_rows, constrained, named


def combinations(model):
    """All feasible combinations of the targets, as pairs of a factor and its value."""
    rows = accepted_rows(model)
    return {tuple((f, row[f]) for f in target) for row in rows for target in model.targets}


def fewest(model, some=None):
    """The number of rows of the smallest cover, by trying all sets of accepted rows."""
    rows, needed = accepted_rows(model), combinations(model) if some is None else some
    have = [{tuple((f, row[f]) for f in t) for t in model.targets} for row in rows]
    for count in range(len(rows) + 1):
        for chosen in itertools.combinations(have, count):
            if set().union(*chosen) >= needed:
                return count
    raise AssertionError("all rows together have all combinations")


def test_no_cover_of_small_models_is_below_the_bound():
    tight = 0
    for seed, strength in itertools.product(range(40), (1, 2, 3)):
        model = constrained(seed, sizes=(3, 2, 2), strength=strength, rules=4)
        floor = lower_bound(model.sizes, combinations(model), strength)
        largest = max(len({c for c in combinations(model) if len(c) == strength and
                           tuple(f for f, _ in c) == t}) for t in model.targets)  # fmt: skip
        assert largest <= floor <= fewest(model)
        tight += floor == fewest(model)
    assert tight > 90  # of 120


def test_no_cover_of_some_combinations_is_below_their_bound():
    """A value without a combination here may still go with others: its cases are not added up."""
    too_high = 0
    for seed, strength in itertools.product(range(30), (2, 3)):
        model = constrained(seed, sizes=(3, 2, 2), strength=strength, rules=2)
        every = sorted(combinations(model))
        some = set(random.Random(seed).sample(every, k=len(every) // 2))
        least = fewest(model, some)
        assert lower_bound(model.sizes, some, strength, are_all=False) <= least
        too_high += lower_bound(model.sizes, some, strength) > least
    assert too_high  # as if they were all


def test_without_constraints_it_is_the_product_of_the_largest_sizes():
    model = named((4, 3, 3, 2), all_targets(4, 2))
    assert lower_bound(model.sizes, combinations(model), 2) == 12
    model = named((4, 3, 3, 2), all_targets(4, 3))
    assert lower_bound(model.sizes, combinations(model), 3) == 36


@pytest.mark.parametrize(("strength", "expected"), [(2, 5 * 3 + 4), (3, 2 * (5 * 3 + 4))])
def test_values_that_go_with_one_value_only_add_their_cases(strength, expected):
    """Five backends of one format need three layouts each; four other formats have one backend."""

    def refuse(row):
        backend, fmt = row[:2]
        is_wrong = fmt != 0 if backend < 5 else fmt == 0
        return Refused(code="format", factors=frozenset({0, 1})) if is_wrong else None

    # With one layout for each other format, so that these need one case each.
    def refuse_layouts(row):
        if row[1] and row[2]:
            return Refused(code="layout", factors=frozenset({1, 2}))
        return refuse(row)

    model = named((6, 5, 3, 2), all_targets(4, strength), refuse=refuse_layouts)
    combos = {c for c in combinations(model) if strength == 3 or 3 not in dict(c)}
    assert lower_bound(model.sizes, combos, strength) == expected


def test_nothing_feasible_needs_nothing_and_no_factors_one_case():
    assert lower_bound((2, 2), (), 2) == 0
    assert lower_bound((), ((),), 0) == 1


def test_it_imports_nothing_of_the_harness():
    tree = ast.parse(Path(bound.__file__).read_text())
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not [name for name in modules if name.startswith("harness")]
