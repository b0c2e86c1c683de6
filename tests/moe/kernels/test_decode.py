"""Decoding by hand-made examples, and each code beside its codec."""

import pytest
import torch
import triton
import triton.language as tl

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.kernels.decode import code_kind, decoded, scale_kind, scale_values
from moe.kernels.launch import launch
from moe.kernels.tiles import is_decoded


@triton.jit
def _decode(raw_ptr, out_ptr, KIND: tl.constexpr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE if KIND == "unsigned" else SIZE // 2)
    tl.store(out_ptr + tl.arange(0, SIZE), decoded(tl.load(raw_ptr + at), KIND))


@triton.jit
def _scales(raw_ptr, out_ptr, KIND: tl.constexpr, SIZE: tl.constexpr):
    k = tl.arange(0, SIZE)
    tl.store(out_ptr + k, scale_values(tl.load(raw_ptr + k), KIND))


@pytest.mark.parametrize("name", ["mxfp4", "int4_g32", "int4_zp_g32", "int8_zp_g32"])
def test_the_kernel_reads_each_code_as_the_codec_does(name):
    fmt = FORMATS[name]
    codes = torch.arange(256, dtype=torch.uint8)
    out = torch.empty(256 * fmt.packing)
    launch(_decode, (1,), out.device, codes, out, KIND=code_kind(fmt), SIZE=len(out))
    assert torch.equal(out, fmt.codec.decode(codes))
    assert torch.equal(out.signbit(), fmt.codec.decode(codes).signbit()), "the sign of zero, too"


def test_scales_are_read_as_torch_reads_them():
    codes, out = torch.arange(256, dtype=torch.uint8), torch.empty(256)
    launch(_scales, (1,), out.device, codes, out, KIND="e8m0", SIZE=256)
    assert torch.equal(out[:255], codes[:255].view(torch.float8_e8m0fnu).float())
    assert out[255].isnan()
    launch(_scales, (1,), out.device, codes, out, KIND="e4m3", SIZE=256)
    assert torch.equal(out[:127], codes[:127].view(torch.float8_e4m3fn).float())
    assert out[127].isnan()


def test_formats_with_groups_are_decoded_and_others_are_not():
    names = {name for name, fmt in FORMATS.rows.items() if is_decoded(fmt)}
    assert {"mxfp8", "mxfp4", "nvfp4", "int4_g128", "int8_g128", "int8_zp_g64"} <= names
    assert not {"model", "fp8_block", "fp8_group", "int8_group", "int8_token"} & names


def test_what_the_kernel_does_not_read_is_an_error():
    with pytest.raises(MoEError, match="no kernel decodes the grid 'e4m3fnuz', only model, e4m3"):
        code_kind(FORMATS["fp8_fnuz_tensor"])
    with pytest.raises(MoEError, match="no kernel decodes weights beside fp8_block, whose scales"):
        scale_kind(FORMATS["fp8_block"])
