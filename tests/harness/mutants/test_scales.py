"""Wrong scales give what the real stack gives with them."""

from __future__ import annotations

import pytest
import torch

from harness.mutants import FEW, named
from tests.harness.mutants.real_layer import assert_foretold, real, scaled
from tests.harness.mutants.samples import (
    apart,
    assert_no_mistake,
    case,
)


def up_like_gate(scale):
    gate, _ = scale.chunk(2, dim=1)
    return torch.cat([gate, gate], dim=1)


def gate_like_up(scale):
    _, up = scale.chunk(2, dim=1)
    return torch.cat([up, up], dim=1)


def transposed(scale):
    return scale.transpose(1, 2).reshape(scale.shape)


def test_block_scales_are_off_by_one_in_either_direction():
    one = case(quant="fp8_block", k=384)
    out, here = real(one, change_weights=scaled("w13_scale", lambda s: s.roll(-1, dims=2)))
    assert apart(out[:FEW], named("scale_shifted_back").compute(here)) < 0.004


IN_WEIGHTS = [
    ("scale_shifted", "fp8_block", scaled("w13_scale", lambda s: s.roll(1, dims=2))),
    ("scale_shifted", "int8_channel", scaled("w13_scale", lambda s: s.roll(1, dims=1))),
    ("scale_shifted", "fp8_tensor", scaled("w13_scale", lambda s: s.roll(-1, dims=0))),
    ("w2_scale_shifted", "fp8_block", scaled("w2_scale", lambda s: s.roll(1, dims=2))),
    ("w2_scale_shifted", "int8_channel", scaled("w2_scale", lambda s: s.roll(1, dims=1))),
    ("w2_scale_shifted", "fp8_tensor", scaled("w2_scale", lambda s: s.roll(-1, dims=0))),
    ("scale_shifted_back", "int8_channel", scaled("w13_scale", lambda s: s.roll(-1, dims=1))),
    ("scale_shifted_back", "fp8_tensor", scaled("w13_scale", lambda s: s.roll(1, dims=0))),
    ("w2_scale_shifted_back", "int8_channel", scaled("w2_scale", lambda s: s.roll(-1, dims=1))),
    ("w2_scale_shifted_back", "fp8_tensor", scaled("w2_scale", lambda s: s.roll(1, dims=0))),
    ("w13_scale_transposed", "fp8_block", scaled("w13_scale", transposed)),
    ("w2_scale_transposed", "fp8_block", scaled("w2_scale", transposed)),
    ("w13_scale_twice", "int8_channel", scaled("w13_scale", torch.square)),
    ("w13_scale_missing", "int8_channel", scaled("w13_scale", torch.ones_like)),
    ("w2_scale_twice", "fp8_block", scaled("w2_scale", torch.square)),
    ("w2_scale_missing", "fp8_block", scaled("w2_scale", torch.ones_like)),
    ("up_scale_from_gate", "fp8_block", scaled("w13_scale", up_like_gate)),
    ("up_scale_from_gate", "int8_channel", scaled("w13_scale", up_like_gate)),
    ("gate_scale_from_up", "int8_channel", scaled("w13_scale", gate_like_up)),
    ("second_scale_from_input", "fp8_tensor", lambda w: w.replace(a2_scale=w.a1_scale)),
    ("second_scale_from_input", "nvfp4", lambda w: w.replace(a2_scale=w.a1_scale)),
]


@pytest.mark.parametrize(("name", "quant", "change"), IN_WEIGHTS)
def test_a_mistake_in_the_weights_is_foretold(name, quant, change):
    assert_foretold(name, case(quant=quant), change_weights=change)


NO_MISTAKE = [
    ("scale_shifted", case(), "nothing is quantized"),
    ("scale_shifted", case(quant="fp8_tensor", num_experts=1, top_k=1), "one scale, only"),
    ("w2_scale_shifted", case(quant="fp8_block", n=128, k=128), "the matrix is one block"),
    ("scale_shifted_back", case(quant="fp8_block"), "either way"),
    ("scale_shifted_back", case(quant="fp8_tensor", num_experts=2), "either way"),
    ("w13_scale_transposed", case(quant="fp8_block", k=128), "a single row or column"),
    ("w13_scale_transposed", case(quant="fp8_tensor"), "not a matrix of blocks"),
    ("up_scale_from_gate", case(quant="fp8_tensor"), "gate and up share one scale"),
    ("second_scale_from_input", case(quant="fp8_block"), "no scale is static"),
    ("input_groups_shifted", case(quant="int8_channel"), "not by groups"),
    ("input_groups_shifted", case(quant="fp8_block", k=128), "a row is one group"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)
