"""How well predictions explain wrong rows: in all of them, or in a part."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis.fit import Fit, fits_of, lengths
from tests.harness.diagnosis.mistaken import call_of, scene, with_output

CALL = call_of()[0]
RIGHT = scene(CALL).answer.out
ALL = torch.ones(len(RIGHT), dtype=torch.bool)


def seen(out):
    """The scene of the chosen rows, had the layer given these."""
    whole = CALL.answer.out.to(out.dtype, copy=True)
    rows = scene(CALL).rows
    whole[rows] = out
    return scene(with_output(CALL, whole))


def test_predictions_are_measured_all_together_as_one_by_one():
    doubled = seen(RIGHT * 2)
    outputs = torch.stack([RIGHT * 2, RIGHT * 1.5, RIGHT])
    together = fits_of(doubled, outputs, ALL, None)
    assert together == [fits_of(doubled, out[None], ALL, None)[0] for out in outputs]
    assert [fit.named for fit in together] == [True, False, False]
    assert [fit.residual for fit in together] == pytest.approx([0, 0.5, 1], abs=0.02)


def test_a_prediction_of_the_first_rows_is_compared_with_these():
    out = RIGHT.clone()
    out[:4] *= 2
    (fit,) = fits_of(seen(out), RIGHT[None, :4] * 2, ALL, None)
    assert (fit.named, fit.where) == (True, "")


def test_a_part_is_named_if_only_that_fits():
    out = RIGHT.clone()
    out[::2, :128] *= -1
    is_wrong = ALL.clone()
    is_wrong[1::2] = False
    columns = torch.arange(RIGHT.shape[1]) < 128
    outputs = torch.stack([-RIGHT, RIGHT * 3, out])
    fits = fits_of(seen(out), outputs, is_wrong, columns)
    assert [fit.named for fit in fits] == [True, False, True]
    assert [fits[0].where, fits[2].where] == ["in the wrong rows and columns only", ""]
    (without,) = fits_of(seen(out), -RIGHT[None], is_wrong, None)
    assert not without.named


def test_most_wrong_rows_must_fit():
    out = RIGHT.clone()
    out *= 2
    out[:3] *= 2
    assert fits_of(seen(out), RIGHT[None] * 2, ALL, None)[0].named is False
    out[1:3] /= 2
    assert isinstance(fit := fits_of(seen(out), RIGHT[None] * 2, ALL, None)[0], Fit)
    assert fit.residual > 0.1  # one of sixteen rows is still another


def test_nan_on_both_sides_is_no_difference_and_on_one_side_a_large_one():
    unit, nan = torch.ones(1, 1), torch.tensor([[torch.nan, 1.0]])
    assert lengths(nan, nan, unit).item() == 0
    assert lengths(nan, torch.ones(1, 2), unit).item() == 1e3
    assert lengths(torch.ones(1, 2), torch.stack([nan, nan + 1]), unit).tolist()[0] == [1e3]


def test_a_value_whose_square_overflows_is_still_a_distance():
    """What lies in a buffer by chance may be 3e38: no cause then "leaves nan %"."""
    actual = torch.tensor([[3e38, 1.0]])
    assert bool(lengths(actual, torch.zeros(1, 2), torch.ones(1, 1)).isfinite().all())


def test_a_mistake_that_changes_nothing_does_not_explain_a_rounding():
    """Both round alike: of a right row it was said that its weights are another order's."""
    rounded = seen(RIGHT.bfloat16())
    assert [fit.named for fit in fits_of(rounded, RIGHT[None], ALL, None)] == [False]
    assert [fit.named for fit in fits_of(seen(RIGHT * 2), RIGHT[None] * 2, ALL, None)] == [True]
