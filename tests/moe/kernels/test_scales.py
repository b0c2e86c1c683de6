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
    with pytest.raises(MoEError, match="no kernel makes codes of grid 'e5m2', only e4m3, int8"):
        code_kind_of(dataclasses.replace(FP8, grid="e5m2"))
