"""`numerics --router`: what it proposes, and where it refuses to guess."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from harness import cli
from harness.commands.router_numerics import FEWEST, infer_from, lines, points_of
from harness.record.router_fit import RouterFit, RouterMeasured
from moe.router_numerics import PLAIN, RouterNumerics
from tests.harness.checks import rounding_routers

NARROW, TORCH = RouterNumerics(weights="logits"), RouterNumerics.as_torch()
ROUTERS = rounding_routers.__name__


def fit(rounding, rows=(50, 50), ties=(0, 0), weights=("a", "a")):
    return RouterFit(rounding=rounding, rows=rows, ties=ties, weights=weights)


def measured(*fits, stated=None):
    return RouterMeasured(cases=("x", "y"), rows=(50, 50), calls=4, fits=fits, stated=stated)


OTHER = fit(TORCH, rows=(9, 9), weights=("b", "b"))


def report(got, *, bias=False):
    case = SimpleNamespace(id="an-id", router_bias=bias)
    plan = SimpleNamespace(
        cases=[case], machine=SimpleNamespace(platform=SimpleNamespace(name="cpu"))
    )
    return "\n".join(lines("mine", plan, got, infer_from(got)))


def test_the_only_one_that_explains_all_is_proposed_with_its_support():
    got = measured(fit(PLAIN, rows=(50, 9), weights=("a", "b")), fit(NARROW))
    text = report(got)
    assert 'RouterNumerics(weights="logits") explains 100 of 100 rows in 4 calls.' in text
    assert "The next best, RouterNumerics(), explains 59 of 100 rows." in text
    assert text.endswith('Paste into the row:\n  rounding=RouterNumerics(weights="logits"),')
    assert report(got, bias=True).endswith('  rounding_with_bias=RouterNumerics(weights="logits"),')


def test_where_two_fit_equally_no_line_is_proposed():
    text = report(measured(fit(NARROW), fit(TORCH, weights=("a", "b"))))
    assert "So does what is not the same: RouterNumerics.as_torch()." in text
    assert "no line is proposed: state what the source says." in text
    assert "Paste" not in text


@pytest.mark.parametrize(("more", "is_rival"), [(FEWEST - 1, True), (FEWEST, False)])
def test_one_that_accepts_more_choices_is_a_rival_unless_enough_rows_would_show_them(
    more, is_rival
):
    got = infer_from(measured(fit(NARROW, ties=(0, more)), fit(PLAIN)))
    assert got.best.rounding == PLAIN
    assert bool(got.rivals) is is_rival


def test_of_what_means_the_same_the_shortest_is_shown():
    long = RouterNumerics(scores="logits", total="same", weights="same", scaled="same")
    got = infer_from(measured(fit(long), fit(TORCH)))
    assert (got.best.rounding, got.rivals) == (TORCH, ())


def test_what_explains_nothing_proposes_nothing():
    text = report(measured(fit(PLAIN, rows=(50, 9)), fit(TORCH, rows=(1, 1))))
    assert text.endswith(
        "No declaration explains all of its 100 rows in 4 calls: the nearest,\n"
        "RouterNumerics(), explains 59.\n"
        "It leaves rows of 1 of 2 cases, the first of them:\n"
        "  python -m harness run --case y"
    )


@pytest.mark.parametrize(
    ("stated", "text", "is_right"),
    [
        (fit(PLAIN), "It rounds as its row states.", True),
        (fit(TORCH, ties=(20, 20)), "It is more exact than its row states: Rou", False),
        (OTHER, "wrong: RouterNumerics.as_torch() explains 18 of 100", False),
    ],
)
def test_a_row_is_compared_with_what_is_found(stated, text, is_right):
    got = measured(fit(PLAIN), OTHER, stated=stated)
    assert text in report(got)
    assert infer_from(got).is_right is is_right


def test_a_nearest_one_is_no_right_row():
    got = measured(fit(PLAIN, rows=(50, 9)), stated=fit(PLAIN, rows=(50, 9)))
    assert not dataclasses.replace(infer_from(got)).is_right


def test_cases_have_the_options_that_the_row_takes():
    plain, biased = points_of("sigmoid")
    assert {case.router_scale for case in plain} == {2.5}
    assert {case.logits_dtype for case in plain} == {"model", "f32"}
    assert {case.chosen_groups for case in biased} == {1, 4}
    (alone,) = points_of(f"{ROUTERS}:RoundsUp")
    assert {(case.router_scale, case.logits_dtype) for case in alone} == {(1.0, "model")}


def test_a_silent_router_gets_its_line(capsys):
    assert cli.main(["numerics", "--router", f"{ROUTERS}:AsTorch"]) == 0
    out = capsys.readouterr().out
    assert "  rounding=RouterNumerics.as_torch(),\n" in out
    assert "  rounding_with_bias=RouterNumerics.as_torch(),\n" in out


def test_a_router_that_rounds_to_one_dtype_only_is_not_explained(capsys):
    assert cli.main(["numerics", "--router", f"{ROUTERS}:RoundsOnEachRank"]) == 1
    assert "No declaration explains all of its 1540 rows" in capsys.readouterr().out


def test_other_options_make_no_sense_with_a_router(capsys):
    assert cli.main(["numerics", "--router", "softmax", "--experts", "triton"]) == 3
    assert "--router NAME measures a router alone" in capsys.readouterr().err
    assert cli.main(["numerics", "--router", "operator:add"]) == 3


def test_a_function_has_no_roundings_to_find(capsys):
    assert cli.main(["numerics", "--router", f"{ROUTERS}:silent"]) == 3
    assert "is a function whose scores nobody else knows" in capsys.readouterr().err
