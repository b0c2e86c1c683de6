"""A prediction fits only if it does for each element; without a wrong stage there are no errors."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.diagnosis.stage_errors import stage_errors
from tests.harness.diagnosis.drawn_errors import holding, right
from tests.harness.diagnosis.explained import RIGHT
from tests.harness.diagnosis.mistaken import CASE
from tests.harness.diagnosis.wrong_sums import evidence_of


def test_what_a_prediction_leaves():
    errors = right()
    wrong = holding(errors, errors.expected * 2)
    assert bool(wrong.is_wrong.all())
    assert wrong.left_by(wrong.expected * 2, 2.0) == 0  # rounded as the stage is
    exact = dataclasses.replace(wrong, actual=wrong.actual * 1.001)  # no 16-bit dtype holds this
    assert exact.left_by(wrong.expected * 2, 2.0) == pytest.approx(0.003, abs=0.002)
    assert wrong.left_by(wrong.expected) is None


def test_one_element_that_does_not_fit_is_enough():
    errors = right()
    actual = errors.expected * 2
    actual[3, 5] = 99.0
    assert holding(errors, actual).left_by(errors.expected * 2, 2.0) is None


def test_larger_values_may_have_larger_roundings():
    errors = right()
    assert torch.equal(errors.noise, holding(errors, errors.expected).noise)
    assert bool((holding(errors, errors.expected + 9).noise > 9 * errors.step / 2).any())


def test_without_a_wrong_stage_they_are_those_of_the_output():
    errors = stage_errors(evidence_of(RIGHT * 2, CASE))
    assert errors.place == "in the output"
    assert errors.actual.shape == RIGHT.shape
    assert bool(errors.is_wrong.any(dim=1).all())


def test_a_right_output_has_none():
    assert stage_errors(evidence_of(RIGHT, CASE)) is None


def test_without_an_element_that_is_wrong_nothing_fits():
    """As in a row of many small errors: the right values would fit as well."""
    errors = right()
    assert not bool(errors.is_wrong.any())
    assert errors.left_by(errors.expected) is None


def test_what_holds_in_the_wrong_rows_only_says_for_which():
    errors = right()
    actual = errors.actual.clone()
    actual[8:16] *= 2  # of expert 1
    wrong = holding(errors, actual)
    residual, where = wrong.fitting(2 * errors.expected)
    assert residual < 0.01
    assert where == "for expert 1 only"
    assert wrong.fitting(3 * errors.expected) is None
    assert holding(errors, 2 * errors.actual).fitting(2 * errors.expected)[1] == ""
