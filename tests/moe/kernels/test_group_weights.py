"""Weights by groups: each expert has its own global scale, and formats name the quantizer."""

import torch

from moe.formats import FORMATS
from moe.kernels.group_weights import quantize_weights, quantize_weights_torch
from moe.kernels.quantize_weights import moe_quantize_weights, moe_quantize_weights_2d


def test_a_global_scale_for_each_expert():
    w = torch.tensor([3.0, 12.0])[:, None, None].expand(2, 4, 32)
    for do in (quantize_weights, quantize_weights_torch, moe_quantize_weights):
        assert do(w, FORMATS["nvfp4"]).global_scale.tolist() == [448 * 6 / 3, 448 * 6 / 12]
    assert moe_quantize_weights_2d(w[1], FORMATS["nvfp4"]).global_scale.tolist() == 448 * 6 / 12
    assert quantize_weights(w, FORMATS["mxfp4"]).global_scale is None


def test_no_experts_have_no_global_scales():
    assert quantize_weights(torch.ones(0, 4, 32), FORMATS["nvfp4"]).global_scale.shape == (0,)
