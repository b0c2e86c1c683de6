"""Codes by other scales are told as those of these scales; of noise nothing is said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.code_scales import code_scales, of_each_rank, others
from moe.formats import FORMATS
from moe.reference.formats import activation_scale, on_grid
from tests.harness.diagnosis.drawn_errors import of_codes

TOKENS, WIDTH = 12, 256
NAMES = ("int8_token", "fp8_token", "fp8_group", "mxfp8")


def drawn(name, seed=0):
    """Tokens [S, K] of different sizes, their scales, and their codes."""
    draw, fmt = torch.Generator().manual_seed(seed), FORMATS[name]
    x = torch.randn(TOKENS, WIDTH, generator=draw) * (torch.randn(TOKENS, 1, generator=draw)).exp()
    x = x.bfloat16().float()
    scale = activation_scale(x, fmt, None).expand_as(x)
    return x, scale, on_grid((x / scale).clamp(fmt.lowest, fmt.top), fmt)


def said(x, actual, expected, fmt, tokens=None):
    tokens = torch.arange(len(x)) if tokens is None else tokens
    errors = of_codes(actual[tokens], expected[tokens], "input")
    return [cause.cause for cause in code_scales(errors, x, tokens, fmt)]


@pytest.mark.parametrize("name", NAMES)
def test_each_kind_of_scale_is_named(name):
    fmt = FORMATS[name]
    x, scale, expected = drawn(name)
    named = 0
    for text, codes in others(x, scale, fmt):
        if int((codes != expected).sum()) < 8:
            continue
        told = said(x, codes, expected, fmt)
        assert told, text
        named += any(one.endswith(f"the codes are those of {text}") for one in told)
    assert named >= 5


def test_rows_may_come_in_any_order():
    fmt, order = FORMATS["int8_token"], torch.randperm(TOKENS)
    x, scale, expected = drawn("int8_token")
    actual = on_grid((x / on_grid(scale, "bf16")).clamp(fmt.lowest, fmt.top), fmt)
    told = said(x, actual, expected, fmt, order[:5])
    assert told[0] == "in stage input the codes are those of scales that are rounded to bf16"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.sampled_from(NAMES))
def test_of_codes_that_are_off_by_chance_nothing_is_said(seed, name):
    fmt, draw = FORMATS[name], torch.Generator().manual_seed(seed)
    x, _, expected = drawn(name, seed)
    off = torch.rand(expected.shape, generator=draw) < 0.1
    actual = torch.where(off, expected.flip(1), expected)
    assert said(x, actual, expected, fmt) == []


def test_a_scale_of_each_rank_is_that_of_its_tokens():
    """The scale of a rank with smaller tokens is smaller; a rank may have none."""
    fmt = FORMATS["nvfp4_dynamic"]
    x = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(3))
    x[:5] /= 7
    codes = of_each_rank(x, fmt, (5, 0, TOKENS - 5))
    every = activation_scale(x, fmt, None).expand_as(x)
    for part in (slice(0, 5), slice(5, None)):
        own = activation_scale(x[part], fmt, None).expand_as(x[part])
        assert torch.equal(codes[part], on_grid((x[part] / own).clamp(fmt.lowest, fmt.top), fmt))
    joined = on_grid((x / every).clamp(fmt.lowest, fmt.top), fmt)
    assert not torch.equal(codes[:5], joined[:5])
    assert torch.equal(codes[5:], joined[5:])


@pytest.mark.parametrize("text", ["steps of at least", "values that are 0 below"])
def test_two_codes_are_enough_if_all_others_follow(text):
    """Few values are so small that the smallest steps round them; of one nothing is said."""
    fmt = FORMATS["fp8_token"]
    x, scale, _ = drawn("fp8_token")
    x[4:6, 7] = scale[4:6, 7] * 3 * 2.0**-9  # an odd number of smallest steps
    expected = on_grid((x / scale).clamp(fmt.lowest, fmt.top), fmt)
    told, codes = next(o for o in others(x, scale, fmt) if o[0].startswith(text))
    assert (codes != expected).nonzero().tolist() == [[4, 7], [5, 7]]
    assert said(x, codes, expected, fmt) == [f"in stage input the codes are those of {told}"]
    assert said(x[5:], codes[5:], expected[5:], fmt) == []
