"""Every declaration of roundings is compared with a router's rows."""

from __future__ import annotations

import pytest

from harness.checks.router_fits import measure, trials
from harness.commands.router_numerics import infer_from, points_of
from moe.router_numerics import PLAIN, RouterNumerics, declaration
from moe.routers import ROUTERS
from tests.harness.checks import rounding_routers

pytestmark = pytest.mark.usefixtures("one_thread")


def name_of(router):
    return f"{rounding_routers.__name__}:{router.__name__}"


def measured(router, *, bias=False):
    plain, *biased = points_of(router if isinstance(router, str) else name_of(router))
    return measure([case.id for case in (biased[0] if bias else plain)], "cpu")


@pytest.mark.parametrize("bias", [False, True])
def test_the_roundings_of_a_silent_router_are_inferred(bias):
    got = infer_from(measured(rounding_routers.AsTorch, bias=bias))
    assert got.best.rounding == RouterNumerics.as_torch()
    assert (got.explains_all, got.rivals, got.is_stated) == (True, (), None)


def test_a_router_in_float32_is_told_from_all_that_round():
    seen = measured("sigmoid", bias=True)
    got = infer_from(seen)
    assert got.best.rounding == PLAIN
    assert (got.explains_all, got.rivals, got.is_stated) == (True, (), True)
    assert seen.total == sum(seen.rows) == 16 * (256 + 129)
    assert seen.calls == 32


def test_a_row_that_states_otherwise_is_wrong_in_the_rows_that_tell():
    seen = measured(rounding_routers.SumsInFloat32)
    got = infer_from(seen)
    assert declaration(got.best.rounding) == 'RouterNumerics(scores="logits")'
    assert got.is_stated is False
    assert seen.stated.total < seen.total


def test_what_no_rounding_explains_has_a_nearest_one():
    seen = measured(rounding_routers.RoundsUp)
    got = infer_from(seen)
    assert not got.explains_all
    assert got.best.total < seen.total


def test_places_that_a_row_does_not_use_are_not_tried():
    takes_nothing = ROUTERS.row(name_of(rounding_routers.RoundsUp))
    tried = list(trials(takes_nothing, bias=False))
    assert {fit.keys for fit in tried} == {"f32", "same"}  # same: as torch has it
    assert {fit.inner for fit in tried} == {"f32", "logits"}
    assert "logits" in {fit.log_sum for fit in tried}
    assert {fit.log_sum for fit in trials(ROUTERS.row("sigmoid"), bias=False)} == {"f32"}
    of_chosen = list(trials(ROUTERS.row("topk_softmax"), bias=False))
    assert {fit.total for fit in of_chosen} == {"f32", "same"}
    assert {fit.weights for fit in of_chosen} == {"f32", "logits", "model", "same"}
