"""The count is of the cases alone: what is missing, infeasible or doubtful shows in it."""

import ast
import itertools
from collections import Counter
from pathlib import Path

from harness.matrix.covering import verify
from harness.matrix.covering.model import all_targets

SIZES = (2, 3, 2)
PAIRS = all_targets(3, 2)
EVERY = list(itertools.product(*map(range, SIZES)))


def never(_):
    return frozenset()


def test_the_product_has_every_combination():
    count = verify.count(EVERY, SIZES, PAIRS, never)
    assert (count.total, count.feasible, count.covered, count.uncovered) == (16, 16, 16, ())
    assert (count.bound, count.largest, count.largest_of) == (6, 6, (0, 1))


def test_a_missing_case_leaves_its_combination_uncovered():
    cases = [case for case in EVERY if case[:2] != (1, 2)]
    count = verify.count(cases, SIZES, PAIRS, never)
    assert count.uncovered == ({0: 1, 1: 2},)
    assert count.covered == count.feasible - 1 == 15


def test_an_infeasible_combination_counts_by_its_reasons_and_lowers_the_bound():
    cases = [case for case in EVERY if case[:2] != (1, 2)]
    count = verify.count(cases, SIZES, PAIRS, lambda c: frozenset({"b", "a"}))
    assert count.infeasible == Counter({"a+b": 1})
    assert (count.feasible, count.covered, count.uncovered) == (15, 15, ())
    assert (count.bound, count.largest, count.largest_of) == (6, 6, (1, 2))


def test_a_combination_that_a_case_has_is_feasible_whatever_is_said_of_it():
    count = verify.count(EVERY, SIZES, PAIRS, lambda c: frozenset({"no"}))
    assert count.infeasible == Counter()


def test_a_value_outside_the_model_covers_nothing():
    count = verify.count([(None, 0, 0)], SIZES, PAIRS, never)
    assert count.covered == 1
    assert verify.count([], SIZES, PAIRS, never).covered == 0


def test_it_imports_neither_the_generator_nor_the_oracle():
    tree = ast.parse(Path(verify.__file__).read_text())
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    own = [name for name in modules if name.startswith("harness")]
    assert own == ["harness.matrix.covering.bound"]  # which imports nothing of the harness
