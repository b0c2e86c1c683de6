"""Wrong readings of packed codes, zero points and exponents give what the real stack gives."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from moe.formats.nibbles import pack, unpack
from moe.quant.checkpoint_layouts import AWQ, AWQ_ORDER, GPTQ, IN_ORDER
from tests.harness.mutants.real_layer import assert_foretold
from tests.harness.mutants.samples import assert_no_mistake, case


def swapped(codes):
    return (codes >> 4) | ((codes & 15) << 4)


def of_both(name, change):
    """Change a tensor of w13 and of w2. name: of the field, as in `w13_scale`."""

    def weights(w):
        fields = (f"w13{name}", f"w2{name}")
        return w.replace(**{field: change(getattr(w, field)) for field in fields})

    return weights


def confused(layout, order):
    """Store the weights in a layout, and load them as if its words had another order."""

    def weights(w):
        wrong = dataclasses.replace(layout, order=order)
        parts = [wrong.load(layout.store(t), w.format) for t in (w.gate_up, w.down)]
        names = (("w13", "w13_zero"), ("w2", "w2_zero"))
        changes = {}
        for (codes, zero), part in zip(names, parts, strict=True):
            changes |= {codes: part.codes, zero: part.zero_point}
        return w.replace(**changes)

    return weights


WRONG = [
    ("nibbles_swapped", "mxfp4", of_both("", swapped)),
    ("nibbles_swapped", "int4_zp_g32", of_both("", swapped)),
    ("words_in_awq_order", "int4_g32", confused(GPTQ, AWQ_ORDER)),
    ("words_out_of_awq_order", "int4_zp_g32", confused(AWQ, IN_ORDER)),
    ("zero_points_ignored", "int4_zp_g32", of_both("_zero", torch.zeros_like)),
    ("zero_points_ignored", "int8_zp_g64", of_both("_zero", torch.zeros_like)),
    ("exponents_one_too_high", "mxfp4_mxfp8", of_both("_scale", lambda s: s + 1)),
    ("exponents_one_too_low", "mxfp8", of_both("_scale", lambda s: s - 1)),
    ("global_scales_missing", "nvfp4", of_both("_global", torch.ones_like)),
    ("w2_global_scale_from_w13", "nvfp4", lambda w: w.replace(w2_global=w.w13_global)),
    ("scale_shifted", "mxfp4", lambda w: w.replace(w13_scale=w.w13_scale.roll(1, 2))),
]


@pytest.mark.parametrize(("name", "quant", "change"), WRONG)
def test_a_wrong_reading_of_the_weights_is_foretold(name, quant, change):
    assert_foretold(name, case(quant=quant), change_weights=change)


def test_zero_points_as_gptq_stores_them_are_foretold():
    """Where a zero point is 0 there is none below: these weights have none."""
    point = case(quant="int4_zp_g32")
    change = of_both("_zero", lambda zero: (zero.int() - 1).clamp(min=0).to(torch.uint8))
    assert_foretold("zero_points_one_too_low", point, change_weights=change)


@pytest.mark.parametrize(
    ("name", "quant", "text"),
    [
        ("nibbles_swapped", "mxfp8", "no codes share a byte"),
        ("words_in_awq_order", "mxfp4", "no words of four-bit integers"),
        ("words_in_awq_order", "int4_zp_g32", "the words are in AWQ's order"),
        ("words_out_of_awq_order", "int4_g32", "no words are in AWQ's order"),
        ("zero_points_ignored", "int4_g32", "there are no zero points"),
        ("exponents_one_too_high", "nvfp4", "no scale is a power of two"),
        ("global_scales_missing", "mxfp4", "there is no global scale"),
        ("w2_global_scale_from_w13", "mxfp4", "there is no global scale"),
    ],
)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, quant, text):
    assert_no_mistake(name, case(quant=quant), text)


def test_swapping_is_what_it_says():
    assert unpack(swapped(pack(torch.tensor([[1, 2]])))).tolist() == [[2, 1]]
