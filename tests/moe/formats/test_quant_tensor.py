"""Codes, scale and format together, and the values that they stand for."""

import dataclasses

import pytest
import torch

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor, dequantize


def ones(*shape):
    return torch.ones(shape).to(torch.float8_e4m3fn)


def test_codes_of_another_dtype_and_a_missing_scale_are_refused():
    fmt = FORMATS["fp8_channel"]
    codes = ones(4, 8).view(torch.uint8)
    with pytest.raises(
        MoEError, match=r"codes of dtype torch.uint8; fp8_channel has codes of torch"
    ):
        dequantize(QuantTensor(codes=codes, scale=torch.ones(4), format=fmt))
    with pytest.raises(MoEError, match="format 'fp8_channel' needs a scale, and it is None: pass"):
        dequantize(QuantTensor(codes=ones(4, 8), format=fmt))


def test_a_scale_without_a_format_is_refused():
    with pytest.raises(MoEError, match="got a scale, but format 'model' has no scales; pass the"):
        QuantTensor(codes=torch.ones(2, 2), scale=torch.ones(2, 1))


def test_scales_of_one_shape_are_read_as_the_format_says():
    """128 rows of 128 columns, and 128 scales along one side: which side, only the format knows."""
    codes, scale = torch.ones(128, 128, dtype=torch.int8), torch.arange(128.0)
    by_row = dataclasses.replace(FORMATS["int8_token"], block=(1, None))
    by_column = dataclasses.replace(by_row, block=(None, 1))
    rows = dequantize(QuantTensor(codes=codes, scale=scale, format=by_row))
    columns = dequantize(QuantTensor(codes=codes, scale=scale, format=by_column))
    assert torch.equal(rows, scale[:, None].expand(128, 128))
    assert torch.equal(columns, rows.T)


def test_other_blocks_than_128_are_spread_as_they_are():
    fmt = dataclasses.replace(FORMATS["fp8_block"], block=(2, 3))
    scale = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    values = dequantize(QuantTensor(codes=ones(3, 4), scale=scale, format=fmt))
    assert values.tolist() == [[1, 1, 1, 2], [1, 1, 1, 2], [4, 4, 4, 8]]


def test_scales_that_do_not_fit_are_named():
    x = QuantTensor(codes=ones(4, 256), scale=torch.ones(4), format=FORMATS["fp8_group"])
    text = r"scales of shape \(4,\) of \(4, 256\) codes: fp8_group has one for each of \[4, 2\]"
    with pytest.raises(MoEError, match=text):
        dequantize(x)


def test_one_expert_s_matrix_has_that_expert_s_scale():
    codes = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]).to(torch.float8_e4m3fn)
    held = QuantTensor(codes=codes, scale=torch.tensor([2.0, 10.0]), format=FORMATS["fp8_tensor"])
    assert dequantize(held.expert(1)).tolist() == [[30.0, 40.0]]
    assert QuantTensor(codes=codes).expert(0).scale is None
