"""Integer weights: the values by hand, and the checkpoint that four-bit ones go through."""

import pytest
import torch

from moe.quant import QUANT, weight_only
from moe.quant.base import dequantize_weight
from moe.quant.checkpoint_layouts import AWQ, AWQ_ORDER, GPTQ, IN_ORDER, CheckpointLayout


def quantized(name, row):
    w = torch.zeros(1, 8, 128)
    w[0, 0, : len(row)] = torch.tensor(row)
    return QUANT.load(name)().quantize_weights(w, w).gate_up


def test_symmetric_weights_by_hand():
    tensor = quantized("int4_g32", [7.5, -7.5, 2.6])
    assert tensor.scale[0, 0].tolist() == [1, 1, 1, 1]
    assert dequantize_weight(tensor)[0, 0, :4].tolist() == [7, -8, 3, 0], "7.5 saturates"


def test_a_zero_point_shifts_the_range():
    tensor = quantized("int4_zp_g32", [30.0, -15.0, 4.0])
    assert (tensor.scale[0, 0, 0].item(), tensor.zero_point[0, 0, 0].item()) == (3.0, 5)
    assert dequantize_weight(tensor)[0, 0, :4].tolist() == [30, -15, 3, 0]


@pytest.mark.parametrize(
    ("name", "layout"), [("int4_g64", GPTQ), ("int4_zp_g64", AWQ), ("w4a8", GPTQ)]
)
def test_four_bit_weights_go_through_a_checkpoint_s_layout(name, layout):
    assert QUANT.load(name).layout is layout


def test_a_layout_that_is_confused_gives_other_weights(monkeypatch):
    """What loads GPTQ's words in AWQ's order, or the other way, permutes codes."""
    row = list(range(-7, 9))
    right = dequantize_weight(quantized("int4_g32", row))
    for order in (AWQ_ORDER, IN_ORDER):
        stored = CheckpointLayout(order=order, packs_inputs=True, less=1)
        confused = CheckpointLayout(
            order=IN_ORDER if order == AWQ_ORDER else AWQ_ORDER, packs_inputs=True, less=1
        )
        fmt = QUANT.load("int4_g32")().weights
        w = quantized("int4_g32", row)
        assert fmt == w.format.name
        loaded = dequantize_weight(confused.load(stored.store(w), w.format))
        assert not torch.equal(loaded, right)
        assert torch.equal(dequantize_weight(stored.load(stored.store(w), w.format)), right)


def test_every_group_and_width_has_a_class():
    names = {row.name for row in QUANT.built_in if row.target.startswith(weight_only.__name__)}
    kinds = ("int4_g", "int4_zp_g", "int8_g", "int8_zp_g")
    assert names == {f"{kind}{group}" for kind in kinds for group in (32, 64, 128)} | {"w4a8"}
