"""The judgement: it lets a right output pass and rejects each wrong one that it is shown."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch

from harness.checks import output
from harness.checks.output import METRICS, judge
from harness.record.result import Verdict
from tests.harness.checks.answers import ANSWER, CASE, RIGHT

if TYPE_CHECKING:
    from moe.reference.result import Answer


def test_the_right_output_passes() -> None:
    found = judge(RIGHT, ANSWER)
    assert (found.verdict, found.messages) == (Verdict.PASSED, ())
    assert set(found.metrics) == set(METRICS)
    assert 0.3 < found.metrics["bound_used"] < 1


def zeroed_block(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, :-128], torch.zeros_like(x[:, -128:])], dim=1)


def one_row(x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:5], row[None], x[6:]])


WRONG = {
    "zeros": torch.zeros_like,
    "halved": lambda x: x * 0.5,
    "doubled": lambda x: x * 2,
    "negated": lambda x: -x,
    "rolled": lambda x: x.roll(1, dims=0),
    "two tokens swapped": lambda x: torch.cat([x[1:2], x[:1], x[2:]]),
    "one row zeroed": lambda x: one_row(x, torch.zeros_like(x[5])),
    "last block zeroed": zeroed_block,
    "one per cent too large": lambda x: x * 1.01,
    "one element off": lambda x: one_row(x, x[5] + torch.eye(x.shape[1])[7] * x[5].abs().max()),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("scale", [1.0, 2.0**-20, 2.0**20])
def test_wrong_outputs_fail_at_any_scale(name: str, scale: float) -> None:
    """No absolute tolerance: everything scaled by a power of two is judged alike."""
    answer = dataclasses.replace(
        ANSWER,
        out=ANSWER.out * scale,
        variance=ANSWER.variance * scale**2,
        flips=ANSWER.flips * scale**2,
    )
    assert judge(RIGHT * scale, answer).verdict is Verdict.PASSED
    wrong = WRONG[name](RIGHT.float() * scale).bfloat16()
    assert judge(wrong, answer).verdict is Verdict.FAILED


def test_an_error_spread_below_every_row_s_bound_is_found_over_all_rows() -> None:
    nudged = ANSWER.out + ANSWER.variance.sqrt()[:, None] * 1.8 / CASE.k**0.5
    found = judge(nudged, ANSWER)
    assert found.verdict is Verdict.FAILED
    text = "every row is within tolerance, but the total error is 1.20x its limit"
    assert found.messages[0] == text


def test_a_check_that_could_not_fail_is_vacuous() -> None:
    blind = dataclasses.replace(ANSWER, variance=ANSWER.out.square().sum(dim=1))
    found = judge(RIGHT, blind)
    assert found.verdict is Verdict.VACUOUS
    text = "an all-zero output would pass in 32 of 32 rows (tolerance exceeds the values), "
    assert found.messages == (f"{text}so this case proves nothing",)


def test_an_output_of_many_parts_is_judged_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = judge(RIGHT, ANSWER)
    monkeypatch.setitem(output._CHUNK_ELEMENTS, "cpu", 5 * CASE.k)  # 32 rows in parts of five
    assert judge(RIGHT, ANSWER) == whole
    wrong = RIGHT.clone()
    wrong[31] *= 2
    assert "rows wrong (31); worst row 31" in judge(wrong, ANSWER).messages[0]


def test_no_tokens_pass_without_a_row() -> None:
    none = dataclasses.replace(
        ANSWER, out=ANSWER.out[:0], variance=ANSWER.variance[:0], flips=ANSWER.flips[:0]
    )
    found = judge(RIGHT[:0], none)
    assert (found.verdict, found.metrics) == (Verdict.PASSED, {"rows": 0.0})


def test_bad_input_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match=r"shapes \[31, 256\] and \[32, 256\]"):
        judge(RIGHT[1:], ANSWER)
    with pytest.raises(ValueError, match="output on meta, reference on cpu: a layer must return"):
        judge(RIGHT.to("meta"), ANSWER)
    with pytest.raises(ValueError, match="int32 cannot be judged"):
        judge(RIGHT.int(), ANSWER)
    with pytest.raises(ValueError, match="the reference holds NaN or Inf"):
        judge(RIGHT, dataclasses.replace(ANSWER, out=ANSWER.out * float("nan")))


@pytest.mark.parametrize(
    ("columns", "each", "every"),
    [(4096, 2.0, 1.5), (72, 2.0, 1.5), (18, 2.0, 1.5), (8, 2.5, 1.5), (1, 5.243, 1.75)],
)
def test_few_columns_leave_room_for_six_deviations(columns, each, every) -> None:
    found = output.tolerance_factors(torch.full((32,), 1e-30), columns)
    assert found == pytest.approx((each, every), abs=1e-3)


def test_a_row_far_above_the_others_counts_as_if_it_were_alone() -> None:
    variance = torch.full((32,), 1e-9)
    variance[3] = 1.0
    each, every = output.tolerance_factors(variance, 8)
    assert every == pytest.approx(each)
    assert output.tolerance_factors(torch.zeros(32), 18)[1] == 2.0  # nothing is known of the rows


def with_variance(value: float) -> Answer:
    return dataclasses.replace(ANSWER, variance=torch.full_like(ANSWER.variance, value))


def test_an_infinite_tolerance_proves_nothing() -> None:
    assert judge(RIGHT, with_variance(float("inf"))).verdict is Verdict.VACUOUS


def test_a_tolerance_that_is_nan_is_a_fault_of_the_reference_and_named() -> None:
    text = r"the tolerance of 32 rows \(0-31\) is NaN, so they cannot be judged: a noise term"
    for out in (RIGHT, 2 * RIGHT):
        with pytest.raises(ValueError, match=text):
            judge(out, with_variance(float("nan")))
