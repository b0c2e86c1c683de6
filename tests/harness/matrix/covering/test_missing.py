"""Votes are the numbers of missing combinations, however they were added up."""

import itertools
import random

from harness.matrix.covering.missing import Missing
from harness.matrix.covering.model import all_targets
from harness.matrix.covering.oracle import Oracle
from tests.harness.matrix.covering.models import named

SIZES = (3, 2, 4, 2, 3)


def test_votes_count_what_each_value_completes():
    for targets in (
        all_targets(5, 1),
        all_targets(5, 2),
        all_targets(5, 3),
        all_targets(5, 4),
        (*all_targets(5, 2), (0, 2, 4)),
    ):
        model = named(SIZES, targets)
        missing = Missing(model, Oracle(model))
        rng = random.Random(1)
        for _ in range(4):
            _check(model, missing, rng)
            row = {f: rng.choice(model.literals[f]) for f in range(5) if rng.random() < 0.9}
            missing.remove_row(row)
            for start in missing.starts([0.5]):
                missing.exclude(start)


def _check(model, missing, rng):
    left = set(itertools.chain.from_iterable(missing.by_target.values()))
    assert missing.size == len(left)
    order = rng.sample(range(5), 5)
    chosen, votes = (), missing.votes_after(0, ())
    for factor in order:
        expected = [
            sum(c in left for c in _combinations((*chosen, n), n)) for n in model.literals[factor]
        ]
        assert list(missing.of_factor(votes, factor)) == expected
        chosen = (*chosen, rng.choice(model.literals[factor]))
        votes = missing.votes_after(votes, chosen)


def _combinations(chosen, last):
    """All combinations of chosen values that have the last one."""
    others = sorted(set(chosen) - {last})
    for width in range(len(others) + 1):
        for part in itertools.combinations(others, width):
            yield tuple(sorted((*part, last)))


def test_starts_are_of_the_factors_that_miss_the_most():
    model = named(SIZES, all_targets(5, 2))
    missing = Missing(model, Oracle(model))
    assert missing.starts([0.0, 0.99]) == [(0, 5), (2, 8)]  # of sizes 3 and 4
    for combinations in missing.by_target.values():
        combinations.clear()
    assert missing.starts([0.5]) == []


def test_excluded_combinations_are_not_missing():
    model = named((2, 2), all_targets(2, 2))
    oracle = Oracle(model)
    oracle.learn(0b0101, frozenset({"no"}))
    assert set(Missing(model, oracle).by_target[0, 1]) == {(0, 3), (1, 2), (1, 3)}


def test_restored_combinations_have_votes_again():
    model = named(SIZES, (*all_targets(5, 1), *all_targets(5, 2), (0, 2, 4)))
    missing = Missing(model, Oracle(model))
    before = set(itertools.chain.from_iterable(missing.by_target.values()))
    missing.remove_row({f: literals[1] for f, literals in enumerate(model.literals)})
    gone = before - set(itertools.chain.from_iterable(missing.by_target.values()))
    assert gone
    for combination in gone:
        missing.restore(combination)
    assert set(itertools.chain.from_iterable(missing.by_target.values())) == before
    _check(model, missing, random.Random(2))
