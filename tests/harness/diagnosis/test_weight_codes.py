"""Codes stand for values, and only what differs is a change."""

from __future__ import annotations

import torch

from harness.diagnosis.weight_codes import Codes, changed
from moe.formats import FORMATS

CODES = torch.tensor([[3.0, 1.0], [2.0, 0.0]])


def codes(name):
    ones = torch.ones_like(CODES)
    return Codes(ratio=CODES, codes=CODES, scale=2 * ones, zero=ones, fmt=FORMATS[name])


def test_values_are_codes_less_the_zero_point_times_the_scale():
    assert codes("int4_zp_g32").values.tolist() == [[4.0, 0.0], [2.0, -2.0]]


def test_a_change_is_another_value_of_one_part():
    one = codes("int4_zp_g32")
    other = changed(one, "scale", one.scale * 3)
    assert other is not None
    assert torch.equal(other.values, one.values * 3)
    assert torch.equal(other.codes, one.codes)
    assert changed(one, "scale", one.scale.clone()) is None


def test_weights_without_a_format_have_codes_only():
    plain = Codes(ratio=CODES, codes=CODES, scale=CODES * 0 + 1, zero=CODES * 0)
    assert not plain.is_quantized
    assert changed(plain, "scale", plain.scale * 2) is None
    assert changed(plain, "codes", CODES.flip(0)) is not None
