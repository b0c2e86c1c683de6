"""Methods by groups: what they quantize, and that shards have the codes of the whole."""

import pytest
import torch

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.quant_tensor import dequantize
from moe.quant import QUANT
from moe.quant.grouped import quantize_experts
from moe.reference import formats as reference

METHODS = [row for row in QUANT.built_in if row.group is not None]


def weights(scale=1.0):
    torch.manual_seed(0)
    return torch.randn(2, 256, 128) * scale, torch.randn(2, 128, 128) * scale


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
def test_a_method_makes_the_formats_of_its_row(row):
    method, (w13, w2) = QUANT.load(row.name)(), weights()
    quantized = method.quantize_weights(w13, w2)
    assert quantized.format == FORMATS[row.scheme.weights]
    for tensor, w in ((quantized.gate_up, w13), (quantized.down, w2)):
        tensor.check()
        for e in range(2):
            wanted = reference.weight_values(w[e], quantized.format)
            assert torch.equal(dequantize(tensor.expert(e)), wanted)
    rows = method.quantize_input(w2[0], torch.tensor(300.0))
    assert rows.format == FORMATS[row.scheme.activations]
    rows.check()


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
def test_weights_are_the_same_whether_sharded_before_or_after(row):
    if row.scheme.weights == "nvfp4":
        pytest.skip("a shard's global scale is that of the whole matrix")
    method, (w13, w2) = QUANT.load(row.name)(), weights()
    w2 = torch.cat([w2, w2.flip(1)], dim=2)
    w13 = torch.cat([w13, 3 * w13], dim=1)
    half = method.shard(method.quantize_weights(w13, w2), range(128, 256), 256)
    alone = method.quantize_weights(
        torch.cat([w13[:, 128:256], w13[:, 384:]], dim=1), w2[:, :, 128:].contiguous()
    )
    for a, b in ((half.gate_up, alone.gate_up), (half.down, alone.down)):
        assert torch.equal(dequantize(a), dequantize(b))
        assert torch.equal(a.codes.view(torch.uint8), b.codes.view(torch.uint8))


def test_a_shard_that_cuts_a_group_is_refused():
    method = QUANT.load("mxfp4")()
    w = method.quantize_weights(torch.ones(1, 128, 32), torch.ones(1, 32, 64))
    with pytest.raises(ValueError, match=r"range\(16, 64\) of 64 cut a block of 32; choose"):
        method.shard(w, range(16, 64), 64)


def test_a_static_global_scale_is_needed():
    with pytest.raises(MoEError, match="nvfp4_static needs calibrated activation scales, and got"):
        QUANT.load("nvfp4")().quantize_input(torch.ones(2, 32), None)


def test_a_rank_without_experts_has_weights_of_their_format():
    for name in ("mxfp4", "nvfp4", "int4_zp_g32"):
        tensor = quantize_experts(torch.ones(0, 64, 64), FORMATS[name])
        assert tensor.shape == (0, 64, 64)
        assert (
            QUANT.load(name)().quantize_weights(torch.ones(0, 64, 64), torch.ones(0, 64, 32)).format
            == FORMATS[name]
        )
