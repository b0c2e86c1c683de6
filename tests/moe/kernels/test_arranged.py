"""Arranged weights hold the codes and scales of all columns, each at its place."""

import dataclasses

import pytest
import torch

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.nibbles import unpack
from moe.kernels.arranged import arranged
from moe.quant import QUANT

NAMES = ("mxfp4", "nvfp4", "mxfp8", "int4_g32", "int4_zp_g64", "int8_g128", "int8_zp_g32")
# Part -> where the bits of an e2m1 code lie, from its sign down, as docs of the module say.
PLACES = ((15, 8, 7, 6), (12, 5, 4, 3), (9, 2, 1, 0), (14, 13, 11, 10))


def weights_of(name, inner):
    torch.manual_seed(0)
    w = torch.randn(2, 24, inner).bfloat16()
    return QUANT.load(name)().quantize_weights(w, w).gate_up


def bit(word, at):
    return (word >> at) & 1


def code_of(word, part, half, kind):
    """The code of a column, taken bit by bit from the place that the module names."""
    if kind != "e2m1":
        return (word >> (4 * part + 16 * half)) & 15
    bits = [bit(word, at + 16 * half) << (3 - i) for i, at in enumerate(PLACES[part])]
    return sum(bits[1:], bits[0])


def codes_of(a):
    """[e, out, columns] int64 of arranged words."""
    words = a.codes.long()
    parts = [
        torch.stack([code_of(words, p, h, a.format.grid) for h in (0, 1)], dim=-1).flatten(-2)
        for p in range(4)
    ]
    return torch.cat(parts, dim=-1).permute(0, 2, 1, 3).flatten(2)


@pytest.mark.parametrize("inner", [256, 384])
def test_every_code_is_at_its_place(inner):
    for name in NAMES:
        w = weights_of(name, inner)
        a = arranged(w)
        if w.format.packing > 1:
            assert torch.equal(codes_of(a)[..., :inner], unpack(w.codes).long()), name
        else:
            rows = a.codes.view(torch.uint8).permute(0, 3, 1, 2, 4).flatten(2)
            assert torch.equal(rows[..., :inner], w.codes.view(torch.uint8)), name


def test_every_scale_and_zero_point_is_at_its_place():
    for name in NAMES:
        w = weights_of(name, 384)
        a, groups = arranged(w), 384 // w.format.group
        if a.scale.dtype == torch.float32:
            scale = a.scale.permute(0, 3, 1, 2).flatten(2)
            assert torch.equal(scale[..., :groups], w.scale), name
        else:
            parts = torch.stack([(a.scale >> (8 * p)) & 255 for p in range(4)], dim=-1)
            scale = parts.permute(0, 2, 1, 3).flatten(2)
            wanted = w.scale.float()
            assert torch.equal(scales_of(scale, name)[..., :groups], wanted), name
        if w.zero_point is not None:
            per_step = 4 // a.span
            parts = torch.stack([(a.zero_point >> (8 * p)) & 255 for p in range(per_step)], dim=-1)
            zero = parts.permute(0, 2, 1, 3).flatten(2)
            assert torch.equal(zero[..., :groups], w.zero_point.int()), name


def scales_of(byte, name):
    """The numbers of bytes: of e8m0 as they are, of nvfp4 with exponents of their own."""
    if name != "nvfp4":
        return byte.float()
    return torch.where(byte == 0, 0.0, (1 + (byte & 7) / 8) * torch.exp2((byte >> 3) - 10.0))


def test_every_e4m3_scale_has_a_byte_of_its_own_and_zero_has_codes_of_zero():
    w = weights_of("nvfp4", 64)
    codes = torch.arange(128, dtype=torch.uint8).view(2, 16, 4)
    every = w.replace(codes=w.codes[:, :16] | 0x11, scale=codes.view(torch.float8_e4m3fn))
    a = arranged(every)
    byte = torch.stack([(a.scale >> (8 * p)) & 255 for p in range(4)], dim=-1)[:, 0]
    got, wanted = scales_of(byte, "nvfp4"), every.scale.float()
    assert torch.equal(got.flatten()[:127], wanted.flatten()[:127])
    assert byte.flatten()[127] == 255, "NaN"
    assert not codes_of(a)[0, 0, :16].any()
    assert bool((codes_of(a)[0, 0, 16:] != 0).all())


def test_columns_beyond_the_last_have_codes_and_scales_that_do_no_harm():
    w = weights_of("mxfp4", 160)
    a = arranged(w)
    assert a.codes.shape == (2, 2, 24, 16)
    assert not codes_of(a)[..., 160:].any()
    assert bool(((a.scale[:, 1] >> 8) == 0x7F7F7F).all()), "scales of 1"


def test_groups_that_no_part_fits_are_an_error():
    w = weights_of("int4_g128", 256)
    other = dataclasses.replace(FORMATS["int4_g128"], name="int4_g256", block=(1, 256))
    with pytest.raises(MoEError, match="no kernel decodes groups of 256 columns"):
        arranged(w.replace(format=other, scale=w.scale[:, :, :1]))


def test_a_rank_without_experts_has_nothing_to_arrange():
    for name in NAMES:
        w = weights_of(name, 128)
        parts = {n: getattr(w, n) for n in ("codes", "scale", "zero_point", "global_scale")}
        a = arranged(w.replace(**{n: None if t is None else t[:0] for n, t in parts.items()}))
        whole = arranged(w)
        assert a.shape == (0, 24, 128), name
        for tensor, full in ((a.codes, whole.codes), (a.scale, whole.scale)):
            assert tensor.shape == (0, *full.shape[1:]), name
