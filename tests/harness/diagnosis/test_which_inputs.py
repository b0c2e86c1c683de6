"""The input of which a product is, is named as it was drawn; nothing is said of noise, of mixtures
and of rows that are too alike.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.diagnosis.input_readings import readings
from harness.diagnosis.other_input_rows import other_rows
from harness.diagnosis.which_inputs import which_inputs
from tests.harness.diagnosis.products import GROUP, drawn, errors_of


def said(errors, product):
    head = f"in stage {errors.stage} the products are those of "
    return [cause.cause.removeprefix(head) for cause in which_inputs(errors, product)]


@pytest.mark.parametrize("of_tokens", [True, False])
def test_each_rule_about_rows_is_named(of_tokens):
    product = drawn(of_tokens=of_tokens)
    count, values = product.rows.count, product.inputs.values
    for text, at in other_rows(product.rows):
        is_row = (at >= 0) & (at < count)
        x = torch.where(is_row[:, None], values[at.clamp(0, count - 1)], torch.nan)
        alike = [t for t, same in other_rows(product.rows) if torch.equal(same[is_row], at[is_row])]
        (first, *_) = said(errors_of(product, x), product)
        assert first in [f"the input row {t}, not of its own" for t in alike], text


def test_rows_that_no_rule_gives_are_listed():
    product = drawn(seed=3)
    draw = torch.Generator().manual_seed(1)
    at = torch.randint(0, product.rows.count, (len(product.rows.flat),), generator=draw)
    at = torch.where(at == product.rows.own, (at + 1) % product.rows.count, at)
    (text,) = said(errors_of(product, product.inputs.values[at]), product)
    first = f"row {int(product.rows.own[0])} those of {int(at[0])}"
    assert text.startswith("other input rows")
    assert first in text


def test_each_reading_is_named_or_one_that_gives_the_same():
    product = drawn(group=GROUP)
    table = dict(readings(product.inputs, product.rows.own))
    for text, x in table.items():
        if not bool(x.isfinite().all()):
            continue
        of = said(errors_of(product, x), product)
        if text.startswith("its own row, rounded to"):  # by as much as the stage is
            continue
        assert of, text
        assert torch.allclose(table[of[0]], x, rtol=1e-2), (text, of)


def test_scales_of_other_rows_are_named():
    product = drawn(group=64)
    own = product.rows.own
    x = product.inputs.codes[own] * product.inputs.scale[product.rows.flat % product.rows.count]
    rule = "the input row with the number row * k + slot, modulo the rows"
    assert said(errors_of(product, x), product) == [f"its own codes, with the scales of {rule}"]


def test_what_lies_beyond_the_last_row_may_be_anything():
    product = drawn()
    flat, values = product.rows.flat, product.inputs.values
    x = values[flat.clamp(max=len(values) - 1)].clone()
    x[flat >= len(values)] = torch.nan
    (text,) = said(errors_of(product, x), product)
    assert text == "the input row with the number row * k + slot, not of its own"


def test_nothing_is_said_of_noise_mixtures_and_of_one_row():
    product = drawn()
    own = product.inputs.values[product.rows.own]
    assert said(errors_of(product, own, noise=3.0), product) == []
    assert (
        said(errors_of(product, own + product.inputs.values.roll(1, 0)[product.rows.own]), product)
        == []
    )
    one = own.clone()
    one[4] = product.inputs.values[0]
    assert said(errors_of(product, one), product) == []


def test_nothing_is_said_of_rows_that_are_alike():
    product = drawn()
    codes = product.inputs.codes[:1].expand_as(product.inputs.codes).clone()
    codes[0] = -codes[0]
    inputs = dataclasses.replace(product.inputs, codes=codes)
    product = dataclasses.replace(product, inputs=inputs)
    errors = errors_of(product, -inputs.values[product.rows.own])
    assert not any("those of row" in text for text in said(errors, product))
