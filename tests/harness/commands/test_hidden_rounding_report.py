"""What is told of the router inside a layer, and where nothing is proposed."""

from __future__ import annotations

import pytest

from harness.commands.hidden_rounding_report import decide_hidden, lines
from harness.record.rounding_fit import Fit, HiddenRounding, RoundingFit
from moe.numerics import Numerics
from moe.router_numerics import PLAIN, RouterNumerics

TORCH, LAST = RouterNumerics.as_torch(), RouterNumerics(weights="logits")


def tried(rounding, residual, unequal):
    fit = Fit(numerics=Numerics(), squares=(residual**2,), unequal=(unequal,))
    return RoundingFit(rounding=rounding, fit=fit)


def hidden(*each, assumed=False, stated=False):
    return HiddenRounding(tried=each, is_assumed=assumed, is_stated=stated)


CLEAR = (tried(TORCH, 0.01, 2), tried(PLAIN, 0.4, 900))


def text(*each, **fields):
    return "\n".join(lines(hidden(*each, **fields)))


@pytest.mark.parametrize(
    ("fields", "end", "is_wrong"),
    [
        ({"assumed": True, "stated": True}, "It routes as its row states.", False),
        ({"stated": True}, "\n  rounding = RouterNumerics.as_torch()", True),
        ({}, "states none. Paste into the class:\n  rounding = RouterNumerics.as_torch()", False),
    ],
)
def test_the_only_one_that_fits_is_compared_with_the_row(fields, end, is_wrong):
    got = text(*CLEAR, **fields)
    assert (
        "Its router: RouterNumerics.as_torch() leaves 0.01 rounding steps; "
        "the next best, RouterNumerics() leaves 0.40." in got
    )
    assert got.endswith(end)
    assert decide_hidden(hidden(*CLEAR, **fields)).is_wrong is is_wrong


@pytest.mark.parametrize(("residual", "unequal"), [(0.015, 900), (0.4, 10)])
def test_where_two_fit_about_equally_no_line_is_proposed(residual, unequal):
    each = (tried(TORCH, 0.01, 2), tried(LAST, residual, unequal), tried(PLAIN, 0.5, 950))
    got = text(*each, stated=True)
    assert "Its router may round in several ways: RouterNumerics.as_torch() leaves 0.01" in got
    assert 'RouterNumerics(weights="logits") leaves' in got
    assert "RouterNumerics() leaves" not in got
    assert got.endswith("No line is proposed: state what the source says.")
    assert not decide_hidden(hidden(*each, stated=True)).is_wrong


def test_what_leaves_too_much_is_not_proposed():
    got = text(tried(TORCH, 0.3, 500), tried(PLAIN, 0.9, 900), stated=True)
    assert got.strip() == (
        "Where its router rounds is not determined: RouterNumerics.as_torch() leaves 0.30 "
        "rounding steps."
    )
