"""Blocks whose scale is off by a power of two are told from their codes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.which_block_scales import which_block_scales
from moe.formats import FORMATS
from moe.reference.formats import on_grid
from tests.harness.diagnosis.drawn_errors import of_codes

GROUP = 32


def said(actual, expected, fmt):
    return which_block_scales(of_codes(actual, expected, "input"), fmt)


def codes(ratio, fmt):
    """Rounded and clamped; ratio: values over their scales."""
    return on_grid(ratio.clamp(fmt.lowest, fmt.top), fmt)


def ratios(seed):
    return torch.randn(6, 4 * GROUP, generator=torch.Generator().manual_seed(seed)) * 150


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(2, 24), st.sampled_from([2.0, 0.5]))
def test_scales_of_some_blocks_off_by_two(seed, count, factor):
    fmt, ratio = FORMATS["mxfp8"], ratios(seed)
    chosen = torch.randperm(24, generator=torch.Generator().manual_seed(seed))[:count]
    factors = torch.ones(24).index_fill(0, chosen, factor).view(6, 4)
    actual = codes(ratio * factors.repeat_interleave(GROUP, dim=1), fmt)
    word = "twice" if factor > 1 else "half"
    assert said(actual, codes(ratio, fmt), fmt) == (
        f"codes are {word} what they should be in {count} of 24 blocks of 32 columns, and right in "
        "the others: the scale is off by 2, as a power of two is by another rule of rounding"
    )


def test_both_ways():
    fmt, ratio = FORMATS["mxfp8"], ratios(0)
    factors = torch.ones(6, 4)
    factors[0, :3], factors[1, :2] = 2.0, 0.5
    actual = codes(ratio * factors.repeat_interleave(GROUP, dim=1), fmt)
    assert said(actual, codes(ratio, fmt), fmt).startswith(
        "codes are twice what they should be in 3 and half what they should be in 2 of 24 blocks "
    )


@pytest.mark.parametrize("size", [0.2, 1.0, 3.0])
def test_of_noise_nothing_is_said(size):
    fmt, ratio = FORMATS["mxfp8"], ratios(1)
    noise = 1 + size * torch.randn(ratio.shape, generator=torch.Generator().manual_seed(2))
    assert said(codes(ratio * noise, fmt), codes(ratio, fmt), fmt) is None


def test_one_block_or_a_stray_element_is_not_enough():
    fmt, ratio = FORMATS["mxfp8"], ratios(3)
    expected = codes(ratio, fmt)
    actual = expected.clone()
    actual[0, :GROUP] = codes(2 * ratio[0, :GROUP], fmt)
    assert said(actual, expected, fmt) is None
    actual[1, :GROUP] = codes(2 * ratio[1, :GROUP], fmt)
    assert said(actual, expected, fmt) is not None
    actual[2, 5] = -4 * expected[2, 5]
    assert said(actual, expected, fmt) is None
