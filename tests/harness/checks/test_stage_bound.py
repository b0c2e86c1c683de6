"""One stage's values are compared element by element, and what differs is named."""

from __future__ import annotations

import pytest
import torch

from harness.checks.stage_bound import MOST_NAMED, Expected, compare, not_finite, rounding
from harness.record.diagnosis import StageFinding

VALUES = torch.arange(24.0).view(6, 4)


def expected(tolerance: float = 0.5) -> Expected:
    return Expected(value=VALUES, tolerance=torch.tensor(tolerance))


def test_within_the_tolerance_there_is_no_finding():
    assert compare("gemm1", VALUES + 0.5, expected()) is None
    assert compare("gemm1", (VALUES + 0.5).bfloat16(), expected()) is None


def test_what_differs_is_counted_and_the_first_is_shown():
    actual = VALUES.clone()
    actual[2, 3] += 0.75
    actual[4, 1:] -= 1
    labels = {"rows": torch.arange(6) * 10, "experts": torch.tensor([7, 7, 1, 1, 0, 0])}
    finding = compare("gemm1", actual, expected(), labels)
    assert str(finding) == (
        "stage gemm1: 4 of 24 elements differ in 2 of 6 rows, experts 0, 1; "
        "first at [20, 3]: 11.75, expected 11 +- 0.5"
    )
    assert (finding.bad, finding.of) == (4, 24)
    assert finding.where == {
        "row": 20, "column": 3, "value": 11.75, "expected": 11.0, "allowed": 0.5,
        "rows": [20, 40], "columns": [1, 3], "experts": [0, 1],
    }  # fmt: skip


def test_nan_differs_but_nothing_is_expected_of_nan():
    actual = VALUES.clone()
    actual[3, 2] = torch.nan
    assert compare("gemm2", actual, expected(torch.inf)).where["row"] == 3
    unknown = Expected(value=actual, tolerance=torch.tensor(0.5))
    assert compare("gemm2", VALUES, unknown) is None


def test_as_many_rows_as_are_named_and_no_more():
    value = torch.zeros(100, 1)
    finding = compare("out", value + 1, Expected(value=value, tolerance=torch.tensor(0.5)))
    assert finding.where["rows"] == list(range(MOST_NAMED))
    assert finding.bad == 100


def test_another_shape_is_the_member_s_error():
    with pytest.raises(
        ValueError, match=r"gemm1 was recorded, .* as \[6, 1\]; it must be \[6, 4\]"
    ):
        compare("gemm1", VALUES[:, :1], expected())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_named_without_an_expected_value(value):
    assert not_finite("combine", VALUES) is None
    actual = VALUES.clone()
    actual[5, 0] = value
    finding = not_finite("combine", actual, {"tokens": torch.arange(6)})
    text = f"1 of 24 elements are NaN or Inf, tokens 5; first at [5, 0]: {value:.6g}"
    assert finding.text == text
    assert not {"expected", "allowed"} & finding.where.keys()


def test_a_rounding_is_half_a_step_of_the_dtype():
    size = torch.tensor([1.0, 100.0])
    assert rounding(size, "bf16").tolist() == [2.0**-8, 0.25]
    assert rounding(size, "bf16", times=2).tolist() == [2.0**-7, 0.5]
    assert rounding(size, "f32").tolist() == [0, 0]
    assert float(rounding(torch.tensor(255.5), "bf16")) == 1.0  # its rounding may reach 256


def test_nan_that_is_expected_is_neither_counted_nor_shown():
    actual, value = VALUES.clone(), VALUES.clone()
    actual[0, 0] = value[0, 0] = torch.nan
    actual[3, 1] += 9
    finding = compare("gemm1", actual, Expected(value=value, tolerance=0.5 + 0 * value))
    assert (
        finding.text
        == "1 of 24 elements differ in 1 of 6 rows; first at [3, 1]: 22, expected 13 +- 0.5"
    )


def test_what_was_compared_is_for_the_same_rank_and_not_recorded():
    finding = compare("gemm1", VALUES + 1, expected(), {"rows": torch.arange(6)}, noun="scales")
    assert torch.equal(finding.actual, VALUES + 1)
    assert (finding.noun, list(finding.labels)) == ("scales", ["rows"])
    recorded = finding.recorded()
    assert type(recorded) is StageFinding
    assert (recorded.text, recorded.where) == (finding.text, finding.where)
