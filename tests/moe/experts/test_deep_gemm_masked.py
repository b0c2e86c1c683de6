"""DeepGEMM's experts: what is passed to the product. No machine here runs it."""

import pytest
import torch

from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.platforms import platform
from moe.quant.base import dequantize_weight
from moe.spec import experts_refusal
from tests.moe.experts.unrun_backends import dispatched, install, made
from tests.moe.kernels.kernel_cases import expected_output, layer_spec_of, relative_rms

pytestmark = pytest.mark.usefixtures("one_thread")


class Product:
    """The masked product from dequantized values, by the layout that DeepGEMM documents."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, w, out, counts, expected):
        self.calls.append((x, w, out, counts, expected))
        (codes, scale), (w_codes, w_scale) = x, w
        assert w_scale.shape == (len(w_codes), *(-(-side // 128) for side in w_codes.shape[1:]))
        values = codes.float() * scale.repeat_interleave(128, dim=2)[..., : codes.shape[2]]
        spread = w_scale.repeat_interleave(128, 1).repeat_interleave(128, 2)
        matrices = w_codes.float() * spread[:, : w_codes.shape[1], : w_codes.shape[2]]
        for e, count in enumerate(counts.tolist()):
            out[e, :count] = (values[e, :count] @ matrices[e].T).to(out.dtype)


@pytest.fixture
def product(monkeypatch):
    stand_in = Product()
    install(monkeypatch, deep_gemm={"m_grouped_fp8_gemm_nt_masked": stand_in})
    return stand_in


@pytest.mark.usefixtures("on_kernel_device")
def test_the_layer_around_the_product_is_right(product):
    backend, x, routing, weights = made("deep_gemm_masked", "fp8_block", hidden=256, unused=0.3)
    got = backend.run(dispatched(x, routing))
    spec, quant = backend.layer_spec, backend.quant
    assert relative_rms(got.cpu(), expected_output(spec, quant, weights, x, routing)) < 1e-3
    first, second = product.calls
    assert torch.equal(first[3], second[3])
    assert first[2].shape == (8, 128, 256), "whole tiles of 128 rows"
    assert 1 <= first[4] <= 128


def test_weights_and_scales_are_passed_as_they_are(product):
    backend, _, _, weights = made("deep_gemm_masked", "fp8_block", hidden=256)
    (codes, scale), values = backend._w13, dequantize_weight(weights.gate_up)
    spread = scale.repeat_interleave(128, 1).repeat_interleave(128, 2)
    assert torch.equal(codes.float() * spread, values)


@pytest.mark.parametrize("name", ["w13_scale", "w2_scale"])
def test_a_scale_per_block_is_needed(product, name):
    backend, _, _, weights = made("deep_gemm_masked", "fp8_block")
    with pytest.raises(MoEError, match=rf"{name} is None; DeepGEMM takes one scale per block"):
        backend.prepare_weights(weights.replace(**{name: None}))


def test_it_is_refused_where_there_is_no_hopper():
    row = EXPERTS.row("deep_gemm_masked")
    reason = experts_refusal(row.needs, layer_spec_of("fp8_block"), platform("cuda_sm100"))
    assert (reason.code, "needs sm90" in reason.text) == ("platform_lacks_feature", True)
