"""A ballot completes rows by their votes, and as a search that goes back would."""

import itertools
import random

import pytest

from harness.matrix.covering.ballot import Ballot
from harness.matrix.covering.missing import Missing
from harness.matrix.covering.oracle import Oracle
from tests.harness.matrix.covering.models import constrained


def refused(seed, strength=2):
    """A model, and an oracle that knows every refusal, but not what several exclude together."""
    model = constrained(seed, strength=strength, rules=14)
    oracle = Oracle(model)
    for row in itertools.product(*model.literals):
        oracle.accepts(row)
    return model, oracle


def starts(model):
    return itertools.chain.from_iterable(map(model.tuples, model.targets))


def order(model, rng):
    return rng.sample(range(len(model.sizes)), len(model.sizes))


@pytest.mark.parametrize("strength", [2, 3])
def test_a_row_has_its_start_and_as_many_missing_combinations_as_it_says(strength):
    model, oracle = refused(2, strength)
    for start in starts(model):
        oracle.complete(start)
    missing = Missing(model, oracle)
    missing.remove_row(dict(enumerate(oracle.complete(()))))
    left = set(itertools.chain.from_iterable(missing.by_target.values()))
    rng = random.Random(0)
    for start in starts(model):
        built = Ballot(missing, oracle, rng).complete(start, order(model, rng))
        assert (built is None) == oracle.excludes(start)
        if built is not None:
            gain, row = built
            assert set(start) <= set(row)
            assert gain == sum(tuple(row[f] for f in target) in left for target in model.targets)


def by_search(missing, oracle, start, order, rng):
    """The row that a search finds which may go back at any time, with votes counted anew."""

    def prefer(factor, literals):
        votes, _ = missing.had_by(literals)
        counts = missing.of_factor(votes, factor)
        numbers = missing.literals[factor]
        ranked = sorted((-count, rng.random(), n) for n, count in zip(numbers, counts, strict=True))
        return [n for _, _, n in ranked]

    return oracle.complete(start, order=order, prefer=prefer, judge=False)


def test_where_no_value_fits_it_goes_back_as_a_search_does():
    went_back = 0
    for seed in range(30):
        (model, oracle), (_, other) = refused(seed), refused(seed)
        missing = Missing(model, oracle)
        for number, start in enumerate(starts(model)):
            factors = order(model, random.Random(number))
            learnt = other.learnt
            expected = by_search(missing, other, start, factors, random.Random(number))
            went_back += other.learnt > learnt
            built = Ballot(missing, oracle, random.Random(number)).complete(start, factors)
            assert (built and built[1]) == expected
        assert oracle.exclusions() == other.exclusions()
    assert went_back > 50
