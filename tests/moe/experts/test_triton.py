"""The Triton experts against the numerics that their row declares, in every scheme of the row."""

import dataclasses

import pytest
import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.kernels.launch import recording
from moe.layout import Layout
from moe.quant import QUANT
from moe.types import Activations, Routing
from tests.moe.kernels.kernel_cases import (
    QUANTS,
    expected_output,
    input_of,
    layer_spec_of,
    relative_rms,
    routing_of,
    same,
    weights_of,
)


def _experts(layer_spec, quant):
    row = EXPERTS.row("triton")
    return EXPERTS.load("triton")(layer_spec, 0, row.numerics, quant)


def _run(layer_spec, quant, weights, x, routing):
    experts = _experts(layer_spec, quant)
    experts.prepare_weights(weights)
    with guarded_buffers.poisoned():
        out = experts.apply(x, routing)
        assert guarded_buffers.broken_guards() == []
    return out.cpu()


def _made(quant_name, device, unused=0.0, **sizes):
    torch.manual_seed(0)
    layer_spec, quant = layer_spec_of(quant_name, **sizes), QUANT.load(quant_name)()
    weights = weights_of(layer_spec, quant, device)
    x = input_of(layer_spec, quant, weights, device)
    return layer_spec, quant, weights, x, routing_of(layer_spec, device, unused)


def _limit(quant_name, device):
    """What is left: sums in another order, which flip a bf16 rounding or a code here and there.

    An fp8 tensor core adds with about 14 bits, and flips more.
    """
    return 8e-3 if quant_name.startswith("fp8") and device.type == "cuda" else 1e-3


@pytest.mark.parametrize("quant_name", QUANTS)
@pytest.mark.parametrize("unused", [0.0, 0.5])
def test_output_is_what_the_numerics_say(quant_name, unused, kernel_device):
    made = _made(quant_name, kernel_device, unused)
    routing = made[-1]
    got, wanted = _run(*made), expected_output(*made)
    assert got.dtype == torch.bfloat16
    assert relative_rms(got, wanted) < _limit(quant_name, kernel_device)
    nobody = (routing.topk_ids < 0).all(dim=1).cpu()
    assert same(got[nobody], torch.zeros_like(got[nobody]))
    assert unused == 0.0 or bool(nobody.any())


@pytest.mark.parametrize("quant_name", ["none", "fp8_block", "int8_channel"])
def test_sizes_that_no_block_divides(quant_name, kernel_device):
    made = _made(
        quant_name, kernel_device, m=7, hidden=72, intermediate=136, num_experts=5, top_k=3
    )
    assert relative_rms(_run(*made), expected_output(*made)) < _limit(quant_name, kernel_device)


def test_fp16(kernel_device):
    made = _made("none", kernel_device, dtype="fp16")
    got = _run(*made)
    assert got.dtype == torch.float16
    assert relative_rms(got, expected_output(*made)) < 2e-4


def test_the_limit_tells_a_wrong_activation_from_a_right_one(kernel_device):
    """The declared roundings are really made: a truth without them is measurably further away."""
    made = _made("none", kernel_device, m=128)
    got = _run(*made)
    in_float32 = layer_spec_of("none", m=128, dtype="f32")
    unrounded = expected_output(in_float32, *made[1:])
    assert relative_rms(got, expected_output(*made)) < 0.3 * relative_rms(got, unrounded)


@pytest.mark.parametrize("quant_name", [name for name in QUANTS if name != "none"])
def test_the_intermediate_gets_the_codes_of_the_method(quant_name, kernel_device):
    layer_spec, quant, weights, _, routing = _made(quant_name, kernel_device, unused=0.4)
    experts = _experts(layer_spec, quant)
    experts.prepare_weights(weights)
    ids = routing.topk_ids
    used = ids.view(-1) >= 0
    h = torch.randn(ids.numel(), layer_spec.intermediate, device=kernel_device).bfloat16()
    h[~used] = float("nan")
    got = experts.quantized(h, ids)
    wanted = quant.quantize_intermediate(h[used], weights.a2_scale)
    assert same(got.codes[used], wanted.codes)
    assert same(got.scale[used] if got.scale.ndim else got.scale, wanted.scale)


@pytest.mark.parametrize("quant_name", ["none", "fp8_tensor_dynamic"])
def test_no_token_is_ours(quant_name, kernel_device):
    layer_spec, quant, weights, x, routing = _made(quant_name, kernel_device)
    nobody = Routing(
        topk_ids=torch.full_like(routing.topk_ids, -1), topk_weights=routing.topk_weights
    )
    got = _run(layer_spec, quant, weights, x, nobody)
    assert same(got, torch.zeros(layer_spec.m, layer_spec.hidden, dtype=torch.bfloat16))


def test_no_tokens_at_all(kernel_device):
    layer_spec, quant, weights, x, routing = _made("none", kernel_device)
    none = Routing(topk_ids=routing.topk_ids[:0], topk_weights=routing.topk_weights[:0])
    with recording(0) as launches:
        got = _run(layer_spec, quant, weights, Activations(codes=x.codes[:0]), none)
    assert got.shape == (0, layer_spec.hidden)
    assert got.dtype == torch.bfloat16
    assert launches == []


def test_a_rank_without_experts(kernel_device):
    layer_spec, quant, weights, x, routing = _made("none", kernel_device)
    layout = Layout(dp_size=2, use_ep=True)
    one = dataclasses.replace(layer_spec, num_experts=1, top_k=1, layout=layout)
    row = EXPERTS.row("triton")
    experts = EXPERTS.load("triton")(one, 1, row.numerics, quant)
    experts.prepare_weights(weights.replace(w13=weights.w13[:0], w2=weights.w2[:0]))
    nobody = Routing(
        topk_ids=torch.full_like(routing.topk_ids, -1), topk_weights=routing.topk_weights
    )
    with guarded_buffers.poisoned():
        got = experts.apply(x, nobody).cpu()
    assert same(got, torch.zeros_like(got))


def test_padding_rows_may_hold_anything(kernel_device):
    layer_spec, quant, weights, x, routing = _made("none", kernel_device)
    clean = _run(layer_spec, quant, weights, x, routing)
    routing.topk_ids[3] = -1
    x.codes[3] = float("nan")
    dirty = _run(layer_spec, quant, weights, x, routing)
    others = torch.arange(layer_spec.m) != 3
    assert same(clean[others], dirty[others])


def test_static_activations_need_their_scale(kernel_device):
    layer_spec, quant, weights, _, _ = _made("fp8_tensor", kernel_device)
    with pytest.raises(
        MoEError, match="need a calibrated a2_scale, and it is None: pass it in Exp"
    ):
        _experts(layer_spec, quant).prepare_weights(weights.replace(a2_scale=None))
