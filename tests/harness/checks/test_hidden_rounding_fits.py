"""Outputs of a whole layer tell where the router rounds that it hides."""

from __future__ import annotations

import pytest

from harness.checks.rounding_fits import measure
from harness.commands.hidden_rounding_report import decide_hidden
from moe.router_numerics import PLAIN, RouterNumerics
from tests.harness.execute_ranks import case

pytestmark = pytest.mark.usefixtures("one_thread")


def measured(layer, **fields):
    point = case(experts="own", layer=layer, m=16, n=32, k=64, num_experts=8, top_k=4, **fields)
    return measure([point.id], "cpu")


@pytest.mark.parametrize(
    ("name", "is_stated", "is_wrong"),
    [
        ("RoutesInBf16", True, False),
        ("SaysNothing", False, False),
        ("SaysFloat32", True, True),
    ],
)
def test_the_router_s_roundings_are_found_whatever_the_row_says(name, is_stated, is_wrong):
    got = measured(f"tests.harness.rounding_layers:{name}")
    decision = decide_hidden(got.hidden)
    assert got.hidden.rounding == RouterNumerics.as_torch()
    assert (decision.is_explained, decision.rivals) == (True, ())
    assert (got.hidden.is_stated, decision.is_wrong) == (is_stated, is_wrong)
    assert got.nearest.reproduces  # the experts are compared with the routing that fits
    assert got.nearest.numerics.gemm1 == "f32"


def test_a_router_in_float32_is_found_as_such():
    got = measured("tests.harness.outside_layers:Rounds", renormalize=False)
    assert got.hidden.rounding == PLAIN
    assert got.hidden.is_assumed


def test_a_routing_that_is_returned_hides_nothing():
    assert measured("tests.harness.rounding_layers:ReturnsItsRouting").hidden is None
