"""What grouped and batched products share: prepared weights, and operands that do not fit."""

import pytest
import torch

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor
from moe.kernels.arranged import Arranged
from moe.kernels.products import check_operands, prepared
from tests.moe.kernels.kernel_cases import same
from tests.moe.kernels.test_decoded_dot import operands, product


@pytest.mark.parametrize("name", ["mxfp4", "int8_zp_g32", "fp8_block"])
def test_prepared_weights_give_the_same_bits(name, kernel_device):
    x, weights = operands(name, out=128)
    w = weights.gate_up
    ready = prepared(w)
    assert isinstance(ready, Arranged) == (name != "fp8_block")
    got, again = product(x, w, kernel_device), product(x, ready, kernel_device)
    assert same(got[:4], again[:4])


def test_rows_with_groups_need_weights_that_are_decoded():
    x, _ = operands("mxfp4_mxfp8")
    w = QuantTensor(
        codes=torch.ones(3, 128, 256).to(torch.float8_e4m3fn),
        scale=torch.ones(3, 128, 1),
        format=FORMATS["fp8_channel"],
    )
    with pytest.raises(MoEError, match="no kernel multiplies mxfp8 rows by fp8_channel weights"):
        check_operands(x, w)
