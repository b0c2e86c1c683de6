"""Scales of other experts or rows give what the real stack gives with them."""

from __future__ import annotations

import pytest
import torch

from harness.mutants import FEW, named
from moe.formats import FORMATS
from moe.quant.base import QuantMethod
from moe.types import Activations
from tests.harness.mutants.real_layer import assert_foretold, real, scaled
from tests.harness.mutants.samples import apart, assert_no_mistake, case


def first_of(scale):
    return scale[:1].expand_as(scale).contiguous()


def test_one_scale_for_the_intermediate_of_all_rows_is_foretold(monkeypatch):
    def together(_, h, __):
        scale = h.float().abs().amax() / 127
        codes = (h.float() / scale).round().to(torch.int8)
        scales = scale.expand(len(h), 1).contiguous()
        return Activations(codes=codes, scale=scales, format=FORMATS["int8_token"])

    right, here = real(case(quant="int8_channel"))
    monkeypatch.setattr(QuantMethod, "quantize_intermediate", together)
    out, here = real(case(quant="int8_channel"))
    foretold = named("second_scale_of_all_rows").compute(here)
    assert apart(out[:FEW], foretold) < 0.004 < apart(out, right)


IN_WEIGHTS = [
    ("w13_scale_of_first_expert", "fp8_block", scaled("w13_scale", first_of)),
    ("w2_scale_of_first_expert", "fp8_tensor", scaled("w2_scale", first_of)),
    ("w13_scale_of_next_expert", "fp8_block", scaled("w13_scale", lambda s: s.roll(-1, dims=0))),
    ("w2_scale_of_next_expert", "int8_channel", scaled("w2_scale", lambda s: s.roll(-1, dims=0))),
    ("w13_scale_of_expert_before", "int8_channel", scaled("w13_scale", lambda s: s.roll(1, 0))),
    ("w2_scale_of_expert_before", "fp8_block", scaled("w2_scale", lambda s: s.roll(1, dims=0))),
]


@pytest.mark.parametrize(("name", "quant", "change"), IN_WEIGHTS)
def test_a_mistake_in_the_weights_is_foretold(name, quant, change):
    assert_foretold(name, case(quant=quant), change_weights=change)


NO_MISTAKE = [
    ("w13_scale_of_first_expert", case(), "nothing is quantized"),
    (
        "w2_scale_of_first_expert",
        case(quant="fp8_block", dp_size=4, use_ep=True),
        "no rank has more than one expert",
    ),
    ("w2_scale_of_next_expert", case(quant="fp8_tensor"), "scales off by one expert"),
    ("second_scale_of_all_rows", case(), "nothing is quantized"),
    ("second_scale_of_all_rows", case(quant="fp8_tensor"), "one scale for all rows is right"),
    ("second_scale_of_all_rows", case(quant="nvfp4_dynamic"), "a scale of all rows is the global"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)
