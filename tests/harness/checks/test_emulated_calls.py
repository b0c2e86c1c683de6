"""Outputs beside their emulation: the distance, and the same calls routed otherwise."""

from __future__ import annotations

import math

import pytest
import torch

from harness.checks.emulated_calls import Ran, emulated_of, fit_of
from moe.numerics import Numerics
from moe.router_numerics import PLAIN, RouterNumerics
from tests.harness.checks.observed import observation, with_output

pytestmark = pytest.mark.usefixtures("one_thread")
FLOAT32 = Numerics(
    gemm1="f32",
    activated_gate="f32",
    activation="f32",
    weight_on="output",
    weight_dtype="f32",
    weighted="f32",
    expert="f32",
    combine="f32",
    combine_order="any",
)


def ran(seen):
    return Ran(subject=seen.subject, context=seen.context, calls=seen.calls)


def seen_layer():
    layer = "tests.harness.rounding_layers:RoutesInBf16"
    return observation(experts="own", layer=layer, m=5, n=128, k=128, all2all="local")


def test_a_layer_that_rounds_as_emulated_is_at_no_distance():
    fit = fit_of(FLOAT32, [emulated_of(ran(seen_layer()))])
    assert fit.residual < 0.01
    assert fit.total_unequal <= 2


def test_other_roundings_of_the_router_are_at_a_distance():
    case = ran(seen_layer()).rounded(PLAIN)
    assert fit_of(FLOAT32, [emulated_of(case)]).residual > 0.1
    back = case.rounded(RouterNumerics.as_torch())
    assert fit_of(FLOAT32, [emulated_of(back)]).residual < 0.01


def test_an_output_that_is_not_finite_has_no_finite_distance():
    seen = seen_layer()
    out = torch.full_like(seen.calls[0].output.out, math.nan)
    fit = fit_of(FLOAT32, [emulated_of(ran(with_output(seen, 0, out=out)))])
    assert fit.residual == math.inf
