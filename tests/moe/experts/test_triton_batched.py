"""The Triton experts on batches against the numerics that their row declares."""

import dataclasses

import pytest
import torch

from moe import guarded_buffers, intermediates
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.experts.triton_batched import TritonBatchedExperts
from moe.layout import Layout
from moe.quant import QUANT
from moe.types import Dispatched, Routing
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

ROW = EXPERTS.row("triton_batched")


def made(quant_name, device, unused=0.0, **sizes):
    torch.manual_seed(0)
    layer_spec, quant = layer_spec_of(quant_name, **sizes), QUANT.load(quant_name)()
    weights = weights_of(layer_spec, quant, device)
    x = input_of(layer_spec, quant, weights, device)
    return layer_spec, quant, weights, x, routing_of(layer_spec, device, unused)


def experts_of(layer_spec, quant, rank=0):
    return EXPERTS.load(ROW.name)(layer_spec, rank, ROW.numerics, quant)


def run(layer_spec, quant, weights, x, routing, rank=0):
    experts = experts_of(layer_spec, quant, rank)
    experts.prepare_weights(weights)
    counts = (len(x.codes),)
    with guarded_buffers.poisoned():
        out = experts.run(Dispatched(x=x, routing=routing, counts=counts))
        assert guarded_buffers.broken_guards() == []
    return out.cpu()


@pytest.mark.parametrize("quant_name", QUANTS)
@pytest.mark.parametrize("unused", [0.0, 0.5])
def test_output_is_what_the_numerics_say(quant_name, unused, kernel_device):
    given = made(quant_name, kernel_device, unused)
    got, expected = run(*given), expected_output(*given)
    limit = 8e-3 if quant_name.startswith("fp8") and kernel_device.type == "cuda" else 1e-3
    assert relative_rms(got, expected) < limit
    nobody = (given[-1].topk_ids < 0).all(dim=1).cpu()
    assert same(got[nobody], torch.zeros_like(got[nobody]))


def test_formats_whose_weights_are_decoded(kernel_device):
    for name in ("mxfp4", "mxfp4_mxfp8", "nvfp4_dynamic", "int4_zp_g64", "w4a8", "int8_g32"):
        given = made(name, kernel_device, 0.2, m=6, num_experts=4)
        assert relative_rms(run(*given), expected_output(*given)) < 3e-3, name


@pytest.mark.parametrize(
    "sizes",
    [
        {"m": 1, "num_experts": 16},
        {"m": 7, "hidden": 72, "intermediate": 136, "num_experts": 5, "top_k": 3},
        {"m": 40, "num_experts": 2, "top_k": 2},  # every expert's block is full
    ],
)
def test_sizes_that_leave_blocks_empty_partial_and_full(sizes, kernel_device):
    given = made("none", kernel_device, **sizes)
    assert relative_rms(run(*given), expected_output(*given)) < 1e-3


def test_an_expert_that_gets_more_rows_than_it_has_room_for_is_an_error(monkeypatch, kernel_device):
    given = made("none", kernel_device)
    busiest = int(torch.bincount(given[-1].topk_ids.flatten().cpu()).amax())
    monkeypatch.setattr(TritonBatchedExperts, "capacity", lambda self, tokens: busiest)
    assert relative_rms(run(*given), expected_output(*given)) < 1e-3
    monkeypatch.setattr(TritonBatchedExperts, "capacity", lambda self, tokens: busiest - 1)
    if kernel_device.type == "cpu":  # on a device the assertion would end the process
        with pytest.raises(MoEError, match=f"gets {busiest} rows, and its batch has room for"):
            run(*given)


@pytest.mark.parametrize("quant_name", ["none", "fp8_tensor_dynamic"])
def test_a_token_s_output_does_not_depend_on_padding_rows(quant_name, kernel_device):
    layer_spec, quant, weights, x, routing = made(quant_name, kernel_device)
    routing.topk_ids[3] = -1
    clean = run(layer_spec, quant, weights, x, routing)
    dirty = x.codes.clone()
    dirty.view(torch.uint8)[3] = 0x7F
    got = run(layer_spec, quant, weights, x.replace(codes=dirty), routing)
    others = torch.arange(layer_spec.m) != 3
    assert same(clean[others], got[others])


@pytest.mark.parametrize("tokens", [0, 4])
def test_no_tokens_and_no_experts_give_zeros(tokens, kernel_device):
    layer_spec, quant, weights, x, routing = made("none", kernel_device, m=4)
    layout = Layout(dp_size=2, use_ep=True)
    one = dataclasses.replace(layer_spec, num_experts=1, top_k=1, layout=layout)
    nothing = weights.replace(w13=weights.w13[:0], w2=weights.w2[:0])
    ids = torch.full_like(routing.topk_ids, -1)[:tokens]
    routing = Routing(topk_ids=ids, topk_weights=routing.topk_weights[:tokens])
    got = run(one, quant, nothing, x.replace(codes=x.codes[:tokens]), routing, rank=1)
    assert same(got, torch.zeros(tokens, layer_spec.hidden, dtype=torch.bfloat16))


@pytest.mark.parametrize("quant_name", ["none", "fp8_block", "fp8_tensor"])
def test_stages_are_recorded_by_flat_row(quant_name, kernel_device):
    given = made(quant_name, kernel_device, unused=0.3)
    with intermediates.recording() as stages:
        run(*given)
    flat = given[-1].topk_ids.view(-1)
    in_use = (flat >= 0).nonzero()[:, 0].tolist()
    for name in ("gemm1", "activation", "second", "gemm2"):
        assert sorted(stages[name].rows.tolist()) == in_use, name
        assert len(stages[name].value) == len(in_use), name
    quantized = quant_name != "none"
    assert ("second_scale" in stages) == quantized
    if quant_name == "fp8_tensor":
        assert stages["second_scale"].rows is None


def test_a_static_scheme_needs_its_scale(kernel_device):
    layer_spec, quant, weights, *_ = made("fp8_tensor", kernel_device)
    with pytest.raises(MoEError, match="fp8_static activations need a calibrated a2_scale"):
        experts_of(layer_spec, quant).prepare_weights(weights.replace(a2_scale=None))
