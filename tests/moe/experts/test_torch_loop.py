"""The plain experts, which take anything, against the formula in float64."""

import dataclasses

import pytest
import torch

from moe import guarded_buffers
from moe.experts import EXPERTS
from moe.layout import Layout
from moe.quant import QUANT
from moe.quant.base import dequantize_activations, dequantize_weight
from moe.spec import Numerics
from moe.types import Routing
from tests.moe.kernels.kernel_cases import (
    QUANTS,
    input_of,
    layer_spec_of,
    relative_rms,
    routing_of,
    same,
    weights_of,
)

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def made(quant_name="none", unused=0.0, **sizes):
    torch.manual_seed(0)
    layer_spec, quant = layer_spec_of(quant_name, **sizes), QUANT.load(quant_name)()
    weights = weights_of(layer_spec, quant, CPU)
    x = input_of(layer_spec, quant, weights, CPU)
    return layer_spec, quant, weights, x, routing_of(layer_spec, CPU, unused)


def run(layer_spec, quant, weights, x, routing, rank=0):
    row = EXPERTS.row("torch_loop")
    assert row.numerics == Numerics.stated(), "one rounding, at the end"
    experts = EXPERTS.load("torch_loop")(layer_spec, rank, row.numerics, quant)
    experts.prepare_weights(weights)
    with guarded_buffers.poisoned():
        out = experts.apply(x, routing)
        assert guarded_buffers.broken_guards() == []
    return out


def formula(layer_spec, quant, weights, x, routing):
    """Token by token in float64; the intermediate of all rows quantized at once, expert by expert.

    Rows are in order of expert, as a scale over all of them does not care.
    """
    w13 = dequantize_weight(weights.gate_up).double()
    w2 = dequantize_weight(weights.down).double()
    token, slot = (routing.topk_ids >= 0).nonzero(as_tuple=True)
    expert = routing.topk_ids[token, slot].long()
    values = dequantize_activations(x).double()[token]
    gate, up = torch.einsum("ri,roi->ro", values, w13[expert]).chunk(2, dim=1)
    h = quant.quantize_intermediate((gate * gate.sigmoid() * up).float(), weights.a2_scale)
    y = torch.einsum("ri,roi->ro", dequantize_activations(h).double(), w2[expert])
    out = torch.zeros(layer_spec.m, layer_spec.hidden, dtype=torch.float64)
    return out.index_add_(0, token, y * routing.topk_weights[token, slot, None].double())


@pytest.mark.parametrize("quant_name", QUANTS)
@pytest.mark.parametrize("unused", [0.0, 0.5])
@pytest.mark.parametrize(
    "sizes",
    [{}, {"m": 7, "hidden": 72, "intermediate": 136, "num_experts": 5, "top_k": 3}, {"m": 1}],
    ids=["even", "odd sizes", "one token"],
)
def test_output_is_the_formula_rounded_once(quant_name, unused, sizes):
    given = made(quant_name, unused, **sizes)
    got, wanted = run(*given), formula(*given)
    assert got.dtype == torch.bfloat16
    nobody = (given[-1].topk_ids < 0).all(dim=1)
    assert same(got[nobody], torch.zeros_like(got[nobody]))
    if not bool(nobody.all()):
        assert relative_rms(got, wanted.bfloat16()) < 5e-4  # a rounding or a code at a tie


@pytest.mark.parametrize(("dtype", "limit"), [("fp16", 5e-4), ("f32", 1e-6)])
def test_other_dtypes(dtype, limit):
    given = made(dtype=dtype)
    got = run(*given)
    assert got.dtype == {"fp16": torch.float16, "f32": torch.float32}[dtype]
    assert relative_rms(got, formula(*given)) < limit


def test_no_tokens_at_all():
    layer_spec, quant, weights, x, routing = made("int8_channel")
    none = Routing(topk_ids=routing.topk_ids[:0], topk_weights=routing.topk_weights[:0])
    nothing = x.replace(codes=x.codes[:0], scale=x.scale[:0])
    got = run(layer_spec, quant, weights, nothing, none)
    assert (got.shape, got.dtype) == ((0, layer_spec.hidden), torch.bfloat16)


@pytest.mark.parametrize("quant_name", ["none", "fp8_tensor_dynamic", "fp8_block"])
def test_a_rank_without_experts_gives_zeros(quant_name):
    layer_spec, quant, _, x, routing = made(quant_name)
    layout = Layout(dp_size=2, use_ep=True)
    one = dataclasses.replace(layer_spec, num_experts=1, top_k=1, layout=layout)
    nothing = quant.quantize_weights(
        torch.ones(0, 256, 128).bfloat16(), torch.ones(0, 128, 128).bfloat16()
    )
    nobody = torch.full_like(routing.topk_ids, -1)
    routing = Routing(topk_ids=nobody, topk_weights=routing.topk_weights)
    got = run(one, quant, nothing, x, routing, rank=1)
    assert same(got, torch.zeros(layer_spec.m, layer_spec.hidden, dtype=torch.bfloat16))


def test_padding_rows_may_hold_anything():
    layer_spec, quant, weights, x, routing = made()
    clean = run(layer_spec, quant, weights, x, routing)
    routing.topk_ids[3] = -1
    x.codes[3] = float("nan")
    dirty = run(layer_spec, quant, weights, x, routing)
    others = torch.arange(layer_spec.m) != 3
    assert same(clean[others], dirty[others])


def test_a_scale_over_all_rows_leaves_out_those_of_other_ranks():
    """An outlier that belongs to another rank's expert must not coarsen this rank's codes."""
    layer_spec, quant, weights, x, routing = made("fp8_tensor_dynamic")
    routing.topk_ids[0] = -1
    clean = run(layer_spec, quant, weights, x, routing)
    x.codes.view(torch.uint8)[0] = 0x7E  # the largest code, all over
    assert same(run(layer_spec, quant, weights, x, routing)[1:], clean[1:])


def test_the_same_call_gives_the_same_bits():
    given = made("fp8_block", unused=0.3)
    assert same(run(*given), run(*given))
