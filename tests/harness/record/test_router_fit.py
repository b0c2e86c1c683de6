"""How many rows a declaration explains, and when two mean the same."""

from harness.record.router_fit import RouterFit, RouterMeasured
from moe.router_numerics import PLAIN, RouterNumerics


def fit(rounding=PLAIN, rows=(3, 4), ties=(0, 1), weights=("a", "b")):
    return RouterFit(rounding=rounding, rows=rows, ties=ties, weights=weights)


def test_rows_are_counted_over_all_cases():
    assert fit().total == 7
    got = RouterMeasured(cases=("x", "y"), rows=(5, 4), calls=4, fits=(fit(),))
    assert got.total == 9


def test_declarations_that_accept_the_same_mean_the_same():
    other = fit(RouterNumerics.as_torch())
    assert fit().means_the_same(other)
    assert not fit().means_the_same(fit(ties=(1, 0)))
    assert not fit().means_the_same(fit(weights=("a", "c")))
