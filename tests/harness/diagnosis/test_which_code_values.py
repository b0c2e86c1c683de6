"""Codes that are read as others are named, and where; of scales and of noise nothing is said."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.diagnosis.which_code_values import keys_of, which_code_values
from tests.harness.diagnosis.drawn_errors import by_row, of_product
from tests.harness.diagnosis.drawn_weights import drawn

ROWS, INNER, COLUMNS, EXPERTS = 8, 128, 96, 2


def given_of(name):
    return drawn(name, 7, rows=ROWS, inner=INNER, columns=COLUMNS, experts=EXPERTS)


def said(given, weights, noise=0.0):
    """The statement if the experts' products were those of these weights."""
    expected = torch.cat([one.x @ one.codes.values.T for one in given])
    actual = torch.cat([one.x @ w.T for one, w in zip(given, weights, strict=True)])
    actual = actual + noise * torch.randn(actual.shape, generator=torch.Generator().manual_seed(1))
    errors = of_product(expected, actual.bfloat16().float(), least=1e-3, facts=by_row(expected))
    causes = which_code_values(errors, given)
    assert len(causes) < 2
    return causes[0].cause.removeprefix("in stage gemm1 the weights ") if causes else None


def read_as(name, table, where=lambda column: column >= 0):
    """The statement if these codes were read as others in some columns."""
    given, weights, column = given_of(name), [], torch.arange(INNER)
    for one in given:
        keys, codes = keys_of(one.codes), one.codes.codes.clone()
        for code, other in table.items():
            codes = torch.where((keys == code) & where(column), other, codes)
        weights.append(dataclasses.replace(one.codes, codes=codes).values)
    return said(given, weights)


@pytest.mark.parametrize(
    ("name", "table", "text"),
    [
        ("mxfp4", {6.0: 4.0, -6.0: -4.0}, "+-6 as +-4"),
        ("mxfp4", {0.5: 0.0, -0.5: 0.0}, "+-0.5 as 0"),
        ("nvfp4", {-1.5: 1.5, -0.5: 0.5, -3.0: 3.0}, "-3 as 3, -1.5 as 1.5, -0.5 as 0.5"),
        ("int4_g32", {-8.0: 0.0}, "-8 as 0"),
        ("int4_zp_g32", {15.0: 7.0}, "15 as 7"),
    ],
)
def test_codes_that_are_read_as_others(name, table, text):
    assert read_as(name, table) == f"have codes that are read as others: {text}"


def test_codes_that_are_read_as_others_in_some_columns():
    """Such as in the high half of each byte, or in one quarter of a step."""
    text = "have codes that are read as others: +-4 as +-3 where k % {}"
    table = {4.0: 3.0, -4.0: -3.0}
    assert read_as("mxfp4", table, lambda c: c % 2 == 1) == text.format("2 is 1")
    assert read_as("mxfp4", table, lambda c: c % 8 == 5) == text.format("8 is 5")
    quarter = read_as("mxfp4", table, lambda c: (c % 128 >= 32) & (c % 128 < 64))
    assert quarter == text.format("128 is 32 to 63")


def test_integers_are_told_by_what_they_were_before_they_were_clamped():
    """The largest value of a group is 127.5 steps; only where it is 128 may it be another."""
    given = given_of("int8_g64")
    assert any(bool((keys_of(one.codes) == 128).any()) for one in given)
    assert read_as("int8_g64", {128.0: 0.0}) == "have codes that are read as others: 128 as 0"


def test_nothing_is_said_of_scales_zero_points_and_noise():
    given = given_of("int4_zp_g32")
    codes = [one.codes for one in given]
    assert said(given, [c.values for c in codes]) is None
    assert said(given, [c.values for c in codes], noise=1.0) is None
    assert said(given, [c.values * 1.25 for c in codes]) is None
    assert said(given, [dataclasses.replace(c, zero=c.zero + 1).values for c in codes]) is None
    late = torch.where(torch.arange(INNER) % 64 >= 32, 2.0, 1.0)
    assert said(given, [c.values * late for c in codes]) is None
    rolled = [dataclasses.replace(c, codes=c.codes.roll(1, 1)).values for c in codes]
    assert said(given, rolled) is None


def test_nothing_is_said_if_experts_differ():
    given = given_of("mxfp4")
    codes = given[0].codes
    wrong = torch.where(codes.codes == 6, 4.0, codes.codes)
    weights = [dataclasses.replace(codes, codes=wrong).values, given[1].codes.values]
    assert said(given, weights) is None
