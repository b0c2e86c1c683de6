"""A fit sums up over cases; one case that is not reproduced is enough to reproduce nothing."""

import math

from harness.record.rounding_fit import REPRODUCED, Fit, Measured
from moe.numerics import Numerics


def fit(*squares, unequal=None):
    return Fit(numerics=Numerics(), squares=squares, unequal=unequal or (1,) * len(squares))


def test_the_residual_is_the_root_of_the_mean_square():
    assert fit(0.0, 0.08, 0.01).residual == math.sqrt(0.03)
    assert fit(0.0, math.inf).residual == math.inf
    assert fit(0.0, 0.5, unequal=(3, 4)).total_unequal == 7


def test_every_case_must_be_reproduced():
    assert fit(0.0, REPRODUCED**2).reproduces
    assert not fit(0.0, 1.01 * REPRODUCED**2).reproduces
    assert not fit(math.inf).reproduces


def test_the_nearest_is_the_first_of_the_least_residual():
    fits = (fit(0.3), fit(0.1), fit(0.1))
    assert Measured(cases=("a",), values=(9,), fits=fits, used=(0.5,)).nearest is fits[1]
