"""The table of formats, and codes, scale and format together."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch

from moe.errors import MoEError, UnknownMemberError
from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor, dequantize
from moe.kernels.scales import code_kind_of, w_kind_of, x_kind_of

FP8 = FORMATS["fp8_tensor"]


def test_an_unknown_format_raises_and_names_the_known():
    with pytest.raises(UnknownMemberError) as caught:
        FORMATS["fp8_blocks"]
    text = "no formats is called 'fp8_blocks', did you mean 'fp8_block'? (known: fp8_block, "
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale_dtype", "e8m0"), ("global_scale", True), ("zero_point", True), ("packing", 2)],
)
def test_what_nobody_can_follow_yet_is_no_format(field, value):
    text = f"format 'fp8_tensor' has {field} {value!r}; codecs and reference know "
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(FP8, **{field: value})


def test_codes_need_a_block_and_values_have_none():
    with pytest.raises(ValueError, match="grid 'e4m3', None; codes need a block, such as"):
        dataclasses.replace(FP8, block=None)
    with pytest.raises(ValueError, match=r"grid 'model', \(1, None\); codes need a block"):
        dataclasses.replace(FORMATS["model"], block=(1, None))


def test_the_table_imports_no_torch():
    code = "import sys, moe.formats as f; f.FORMATS['model']; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_scale_without_a_format_is_refused():
    with pytest.raises(MoEError, match="a scale, but format 'model' has none; say in which"):
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
    values = dequantize(QuantTensor(codes=torch.ones(3, 4), scale=scale, format=fmt))
    assert values.tolist() == [[1, 1, 1, 2], [1, 1, 1, 2], [4, 4, 4, 8]]


def test_scales_that_do_not_fit_are_named():
    x = QuantTensor(codes=torch.ones(4, 256), scale=torch.ones(4), format=FORMATS["fp8_group"])
    text = r"scales of shape \(4,\) of \(4, 256\) codes: fp8_group has one for each of \[4, 2\]"
    with pytest.raises(MoEError, match=text):
        dequantize(x)


def test_kernels_refuse_blocks_and_grids_that_they_do_not_know():
    small = dataclasses.replace(FORMATS["fp8_block"], block=(64, 64))
    with pytest.raises(MoEError, match=r"no kernel reads weight scales for blocks of \(64, 64\)"):
        w_kind_of(small)
    with pytest.raises(MoEError, match="no kernel reads activation scales for blocks of"):
        x_kind_of(small)
    with pytest.raises(MoEError, match="no kernel makes codes of grid 'e5m2', only e4m3, int8"):
        code_kind_of(dataclasses.replace(FP8, grid="e5m2"))
