"""A reading changes what it names, and only where it applies."""

from __future__ import annotations

import torch

from harness.diagnosis.weight_readings import readings
from harness.diagnosis.which_weights import codes_of
from moe.formats import FORMATS

W = torch.randn(16, 64, generator=torch.Generator().manual_seed(1)).bfloat16().float()


def read(text, name="int4_zp_g32"):
    return dict(readings(32))[text](codes_of(W, FORMATS[name]))


def test_scales_move_by_whole_groups():
    codes, other = (
        codes_of(W, FORMATS["int4_zp_g32"]),
        read("have the scale of the group of inputs before each"),
    )
    assert torch.equal(other.scale[:, :32], codes.scale[:, 32:])
    assert torch.equal(other.codes, codes.codes)


def test_pairs_of_codes_are_exchanged():
    codes = codes_of(W, FORMATS["int4_zp_g32"])
    order = "the two of each pair exchanged"
    text = f"have the codes of the inputs permuted, {order}, but not their scales"
    assert torch.equal(read(text).codes[:, ::2], codes.codes[:, 1::2])


def test_codes_are_rounded_to_their_grid():
    codes = read("have codes that are rounded toward zero", "fp8_channel")
    assert bool((codes.codes.abs() <= codes.ratio.abs() + 1e-6).all())
    assert bool((codes.codes == codes.codes.to(torch.float8_e4m3fn).float()).all())


def test_weights_without_codes_have_no_scales_to_move():
    assert read("have the scale of the output before each", "model") is None
    assert read("have codes that are rounded down", "model") is None
    assert read("have the code of the output before each", "model") is not None


def test_powers_of_two_are_rounded_by_another_rule_and_codes_follow():
    codes = codes_of(W, FORMATS["mxfp4"])
    rules = ("the next power of two above", "the nearest power of two")
    for other in (read(f"have scales that are {rule}", "mxfp4") for rule in rules):
        ratio = other.scale / codes.scale
        assert set(ratio.unique().tolist()) in ({1.0, 2.0}, {0.5, 1.0})
        assert torch.equal(other.scale.log2(), other.scale.log2().round())
        assert bool((other.values - W).abs().max() <= other.scale.max() * 2)
    assert read("have scales that are the nearest power of two", "int4_zp_g32") is None
    own = "the largest value's power of two over that of the top code"  # mxfp4's rule
    assert read(f"have scales that are {own}", "mxfp4") is None
