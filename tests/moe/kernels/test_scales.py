"""Formats as the kernels' compile-time constants."""

import dataclasses

import pytest

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.kernels.scales import code_kind_of, w_kind_of, x_kind_of

FP8 = FORMATS["fp8_tensor"]


def test_kernels_refuse_blocks_and_grids_that_they_do_not_know():
    small = dataclasses.replace(FORMATS["fp8_block"], block=(64, 64))
    with pytest.raises(MoEError, match=r"no kernel reads weight scales for blocks of \(64, 64\)"):
        w_kind_of(small)
    with pytest.raises(MoEError, match="no kernel reads activation scales for blocks of"):
        x_kind_of(small)
    with pytest.raises(MoEError, match="no kernel makes codes of grid 'e5m2', only e4m3, e4m3fnuz"):
        code_kind_of(dataclasses.replace(FP8, grid="e5m2"))


def test_weights_of_each_format_have_the_kernels_kind_of_scale():
    kinds = {name: w_kind_of(FORMATS[name]) for name in ("model", "fp8_tensor", "fp8_block")}
    assert kinds == {"model": "none", "fp8_tensor": "tensor", "fp8_block": "block"}
    assert w_kind_of(FORMATS["int8_channel"]) == "channel"


def test_activations_of_each_format_have_the_kernels_kind_of_scale():
    kinds = {name: x_kind_of(FORMATS[name]) for name in ("model", "fp8_static", "fp8_dynamic")}
    assert kinds == {"model": "none", "fp8_static": "tensor", "fp8_dynamic": "tensor"}
    assert x_kind_of(FORMATS["fp8_group"]) == "group"
    assert x_kind_of(FORMATS["int8_token"]) == "token"


def test_weight_blocks_are_no_activation_groups():
    with pytest.raises(MoEError, match=r"no kernel reads activation scales .* \(128, 128\), only"):
        x_kind_of(FORMATS["fp8_block"])
    with pytest.raises(MoEError, match=r"no kernel reads weight scales for blocks of \(1, 128\)"):
        w_kind_of(FORMATS["fp8_group"])


def test_codes_are_made_by_the_grid():
    assert code_kind_of(FP8) == "fp8"
    assert code_kind_of(FORMATS["int8_token"]) == "int8"
