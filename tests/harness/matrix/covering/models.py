"""Small models whose products can be listed, with constraints drawn at random."""

import itertools
import random

from harness.matrix.covering.model import Model, Refused, all_targets


def named(sizes, targets, **more):
    """A model with the factors f0, f1, ... and the values 0, 1, ..."""
    names = tuple(f"f{i}" for i in range(len(sizes)))
    values = tuple(tuple(map(str, range(size))) for size in sizes)
    return Model(names=names, values=values, targets=targets, **more)


def constrained(seed, sizes=(4, 3, 3, 2, 2), strength=2, rules=6):
    """A model that refuses rows by rules on one to three factors; each has a code of its own."""
    rng = random.Random(seed)
    drawn = []
    for number in range(rules):
        factors = sorted(rng.sample(range(len(sizes)), rng.choice((1, 2, 2, 2, 3, 3))))
        values = {f: rng.randrange(sizes[f]) for f in factors}
        drawn.append((f"rule{number}", values))

    def refuse(row):
        for code, values in drawn:
            if all(row[f] == v for f, v in values.items()):
                return Refused(code=code, factors=frozenset(values))
        return None

    return named(sizes, all_targets(len(sizes), strength), refuse=refuse)


def accepted_rows(model):
    """Every row of the product that is not refused."""
    return [r for r in itertools.product(*map(range, model.sizes)) if model.refuse(r) is None]


def feasible(model, target):
    """The combinations of these factors that accepted rows have, as literals."""
    return {tuple(model.literals[f][row[f]] for f in target) for row in accepted_rows(model)}
