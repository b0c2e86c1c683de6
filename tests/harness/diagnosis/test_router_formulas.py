"""The formula without another part is the right one; each other one differs in as many parts."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis import router_formulas
from harness.diagnosis.router_formulas import formulas
from tests.harness.diagnosis.routed import right_weights, routed_by

PARTS = ("scores", "sums", "scales", "roundings", "places")


@pytest.mark.parametrize("options", [{}, {"renormalize": False}, {"router": "sigmoid", "scale": 2}])
def test_the_first_choice_of_each_part_is_right(options):
    routed = routed_by(**options)
    parts = [getattr(router_formulas, name)(routed) for name in PARTS]
    assert [next(iter(part)) for part in parts] == [""] * len(PARTS)
    score, total, scale, rounded, placed = (part[""] for part in parts)
    own = routed.chosen(score())
    weights = placed(rounded(scale(own / total(score(), own))))
    torch.testing.assert_close(weights, right_weights(routed), rtol=1e-6, atol=0)


def test_formulas_differ_in_as_many_parts_as_are_asked_for():
    of_one, of_two = formulas(routed_by(), 2)
    assert {len(formula.texts) for formula in of_one} == {1}
    assert {len(formula.texts) for formula in of_two} == {2}
    assert len({formula.texts for formula in of_two}) == len(of_two) > 100
    assert all(bool(formula.weights.isfinite().all()) for formula in of_two)
