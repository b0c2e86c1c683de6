"""Scales of another size make other codes; orders are told by the values that they lead to."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis.scale_readings import readings
from harness.diagnosis.which_weights import Multiplied, codes_of, which_weights
from moe.formats import FORMATS
from moe.reference import formats
from tests.harness.diagnosis.drawn_errors import of_product

OUTPUTS, INPUTS, GROUP = 16, 96, 32
W = (
    (torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(1)) * 2)
    .bfloat16()
    .float()
)


def read(text, name):
    return dict(readings(GROUP))[text](codes_of(W, FORMATS[name]))


def test_scales_of_twice_the_size_are_used_where_codes_are_made():
    codes = codes_of(W, FORMATS["mxfp4"])
    other = read("have scales that are 2 times as large, also where their codes were made", "mxfp4")
    assert torch.equal(other.scale, 2 * codes.scale)
    assert bool(((other.values - W).abs() <= other.scale).all())


def test_amax_becomes_the_largest_code():
    text = "have scales by which the largest value is the largest code, also where codes were made"
    other = read(text, "int4_g32")
    amax = formats.group_amax(W, GROUP)
    assert torch.equal(other.scale[:, ::GROUP], amax / 7)
    assert torch.equal(other.codes, (W / other.scale).round().clamp(-8, 7))
    assert read(text, "int4_zp_g32") is None  # the range decides there
    assert read(text, "mxfp4") is None  # a power of two is no quotient
    assert read(text, "fp8_channel") is None  # it is so by right


def numbered(name="int4_g32"):
    """Codes whose scales are 1000 * output + group."""
    codes = codes_of(W, FORMATS[name])
    group = torch.arange(INPUTS) // GROUP
    scale = (1000.0 * torch.arange(OUTPUTS)[:, None] + group).float()
    return type(codes)(ratio=W, codes=W, scale=scale, zero=codes.zero, fmt=codes.fmt)


def groups_read(text):
    other = dict(readings(GROUP))[text](numbered())
    return None if other is None else other.scale[:, ::GROUP]


def test_values_that_are_stored_by_group_and_read_by_output():
    stored = numbered().scale[:, ::GROUP].T.contiguous()  # [groups, outputs]
    text = "have scales that are stored by group, and read by output"
    assert torch.equal(groups_read(text), stored.view(OUTPUTS, 3))
    back = groups_read("have scales that are stored by output, and read by group")
    assert torch.equal(back, numbered().scale[:, ::GROUP].contiguous().view(3, OUTPUTS).T)


def test_orders_within_steps_and_a_last_step_that_is_not_full():
    text = "have scales that are in each step of 2 groups stored by output, and read by group"
    values = torch.nn.functional.pad(numbered().scale[:, ::GROUP], (0, 1), value=0.0)
    steps = [values[:, :2].contiguous(), values[:, 2:].contiguous()]  # as they are stored
    expected = torch.cat([step.view(2, OUTPUTS).T for step in steps], dim=1)[:, :3]
    assert torch.equal(groups_read(text), expected)


def test_gate_and_up_that_are_interleaved():
    text = "have scales that are interleaved, one of gate and one of up"
    gate, up = numbered().scale[:, ::GROUP].chunk(2)
    assert torch.equal(groups_read(text), torch.stack([gate, up], dim=1).flatten(0, 1))


def product(codes, rows=12):
    x = torch.randn(rows, INPUTS, generator=torch.Generator().manual_seed(2))
    return x, x @ codes.values.T


@pytest.mark.parametrize("name", ["int4_g32", "int4_zp_g32", "mxfp4"])
def test_each_reading_explains_the_product_that_it_gives(name):
    codes = codes_of(W, FORMATS[name])
    x, expected = product(codes)
    one = Multiplied(rows=torch.arange(len(x)), x=x, codes=codes)
    applied = 0
    for text, other in readings(GROUP):
        wrong = other(codes)
        if wrong is None or not bool(wrong.values.isfinite().all()):
            continue
        applied += 1
        errors = of_product(expected, product(wrong)[1], least=1e-3)
        assert which_weights(errors, [one], GROUP), text
    assert applied > 5


def test_noise_and_mixtures_are_no_reading():
    codes = codes_of(W, FORMATS["int4_g32"])
    x, expected = product(codes)
    one = Multiplied(rows=torch.arange(len(x)), x=x, codes=codes)
    draw = torch.Generator().manual_seed(5)
    noisy = expected + torch.randn(expected.shape, generator=draw)
    assert which_weights(of_product(expected, noisy, least=1e-3), [one], GROUP) == []
    half = torch.where(torch.rand(codes.scale.shape, generator=draw) < 0.5, 2.0, 1.0)
    mixed = x @ (codes.values * half).T
    assert which_weights(of_product(expected, mixed, least=1e-3), [one], GROUP) == []


def test_blocks_of_outputs_move_as_one():
    fmt = FORMATS["fp8_block"]
    draw = torch.Generator().manual_seed(7)
    w = (
        torch.randn(512, 256, generator=draw)
        * 2.0 ** torch.arange(8).repeat_interleave(64)[:, None]
    )
    codes = codes_of(w, fmt)
    text = "have scales that are interleaved, one of gate and one of up"
    other = dict(readings(128))[text](codes)
    of_blocks = codes.scale[::128, ::128]
    assert torch.equal(other.scale[::128, ::128], of_blocks[[0, 2, 1, 3]])
    assert torch.equal(other.scale, other.scale[::128].repeat_interleave(128, dim=0))
