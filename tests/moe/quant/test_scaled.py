"""Methods made of a weight and an activation format: every granularity, by hand and by its rule."""

import pytest
import torch

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.quant import QUANT
from moe.quant.scaled import ScaledCodes
from tests.moe.quant.hand_made import bits

METHODS = [row.name for row in QUANT.built_in if issubclass(QUANT.load(row.name), ScaledCodes)]


@pytest.mark.parametrize("name", METHODS)
def test_a_class_makes_the_formats_of_its_row(name):
    scheme, made = QUANT.row(name).scheme, QUANT.load(name)
    assert (made.weights, made.activations) == (scheme.weights, scheme.activations)
    fmt = FORMATS[scheme.activations]
    assert made.input_scale_is_local == (not fmt.spans_rows)


@pytest.mark.parametrize(
    ("name", "scales", "codes"),
    [
        ("fp8_tensor_token", [[0.5], [2.0]], [[0x7E, 0x40], [0x38, 0xFE]]),
        ("fp8_channel", [[0.5], [2.0]], [[0x7E, 0x40], [0x38, 0xFE]]),
        ("fp8_channel_dynamic", 2.0, [[0x6E, 0x30], [0x38, 0xFE]]),
        ("fp8_channel_static", 4.0, [[0x66, 0x28], [0x30, 0xF6]]),
    ],
)
def test_tokens_by_hand(name, scales, codes):
    x = torch.tensor([[224.0, 1.0], [2.0, -896.0]])
    made = QUANT.load(name)().quantize_input(x, torch.tensor(4.0))
    assert made.scale.tolist() == scales
    assert bits(made.codes) == codes


def test_int8_groups_by_hand():
    x = torch.zeros(2, 130)
    x[0, 0], x[0, 1], x[0, 129], x[1, 127] = 127.0, 2.5, -254.0, 63.5
    made = QUANT.load("int8_block")().quantize_input(x, None)
    assert made.scale.tolist() == [[1.0, 2.0], [0.5, 1.0]]
    assert [made.codes[r, c].item() for r, c in ((0, 0), (0, 1), (0, 129), (1, 127))] == [
        *(127, 2, -127, 127)
    ]


@pytest.mark.parametrize("name", ["fp8_tensor", "fp8_channel_static"])
def test_a_static_scale_that_is_missing_or_not_one_number_is_refused(name):
    method, x = QUANT.load(name)(), torch.ones(3, 2)
    remedy = "pass a1_scale and a2_scale, each a float32 tensor of one element"
    with pytest.raises(MoEError, match=f"fp8_static needs calibrated .*, and got None: {remedy}"):
        method.quantize_input(x, None)
    with pytest.raises(
        MoEError, match=rf"has one scale for all tokens, and got \[3, 1\]: {remedy}"
    ):
        method.quantize_input(x, torch.ones(3, 1))
