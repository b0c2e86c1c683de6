"""The grouped_mm experts against the numerics that their row declares."""

import pytest
import torch

from moe import guarded_buffers
from moe.experts import EXPERTS
from moe.experts.torch_grouped import _by_expert, _grouped_mm, _with_bias
from moe.quant import QUANT
from moe.types import Activations, Routing
from tests.moe.kernels.kernel_cases import (
    expected_output,
    input_of,
    layer_spec_of,
    relative_rms,
    routing_of,
    same,
    weights_of,
)


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _made(device, unused=0.0, **sizes):
    torch.manual_seed(0)
    layer_spec, quant = layer_spec_of("none", **sizes), QUANT.load("none")()
    weights = weights_of(layer_spec, quant, device)
    x = input_of(layer_spec, quant, weights, device)
    return layer_spec, quant, weights, x, routing_of(layer_spec, device, unused)


def _run(layer_spec, quant, weights, x, routing):
    row = EXPERTS.row("torch_grouped")
    experts = EXPERTS.load("torch_grouped")(layer_spec, 0, row.numerics, quant)
    experts.prepare_weights(weights)
    with guarded_buffers.poisoned():
        out = experts.apply(x, routing)
        assert guarded_buffers.broken_guards() == []
    return out.cpu()


@pytest.mark.parametrize("unused", [0.0, 0.5])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"m": 1, "num_experts": 64},  # nearly all experts without a row
        {"m": 7, "hidden": 72, "intermediate": 136, "num_experts": 5, "top_k": 3},
    ],
)
def test_output_is_what_the_numerics_say(sizes, unused, device):
    made = _made(device, unused, **sizes)
    got, wanted = _run(*made), expected_output(*made)
    assert got.dtype == torch.bfloat16
    if float(wanted.abs().amax()) == 0.0:
        assert same(got, wanted)
    else:
        assert relative_rms(got, wanted) < 1e-3


def test_rows_are_sorted_by_expert_and_unused_ones_belong_to_none():
    ids = torch.tensor([[2, -1], [0, 2], [-1, 0]], dtype=torch.int32)
    order, ends = _by_expert(ids, 4)
    assert order.tolist() == [2, 5, 0, 3, 1, 4]
    assert ends.tolist() == [2, 2, 4, 4]
    assert ends.dtype == torch.int32


def test_tokens_without_experts_here_are_zero(device):
    made = _made(device, unused=0.6)
    nobody = (made[-1].topk_ids < 0).all(dim=1).cpu()
    assert bool(nobody.any())
    got = _run(*made)[nobody]
    assert same(got, torch.zeros_like(got))


def test_no_token_is_ours(device):
    layer_spec, quant, weights, x, routing = _made(device)
    nobody = Routing(
        topk_ids=torch.full_like(routing.topk_ids, -1), topk_weights=routing.topk_weights
    )
    got = _run(layer_spec, quant, weights, x, nobody)
    assert same(got, torch.zeros(layer_spec.m, layer_spec.hidden, dtype=torch.bfloat16))


def test_no_tokens_at_all(device):
    layer_spec, quant, weights, x, routing = _made(device)
    none = Routing(topk_ids=routing.topk_ids[:0], topk_weights=routing.topk_weights[:0])
    got = _run(layer_spec, quant, weights, Activations(codes=x.codes[:0]), none)
    assert got.shape == (0, layer_spec.hidden)


def test_padding_rows_may_hold_anything(device):
    layer_spec, quant, weights, x, routing = _made(device)
    clean = _run(layer_spec, quant, weights, x, routing)
    routing.topk_ids[3] = -1
    x.codes[3] = float("nan")
    dirty = _run(layer_spec, quant, weights, x, routing)
    others = torch.arange(layer_spec.m) != 3
    assert same(clean[others], dirty[others])


def test_a_bias_is_a_column_of_the_sum_before_its_rounding():
    w = torch.randn(2, 6, 16).bfloat16()
    bias = torch.randn(2, 6).bfloat16()
    joined = _with_bias(w, bias)
    assert joined.shape == (2, 6, 24), "rows stay a multiple of 16 bytes"
    x = torch.randn(5, 16).bfloat16()
    ends = torch.tensor([3, 5], dtype=torch.int32)
    got = _grouped_mm(x, joined.transpose(1, 2), ends)
    exact = torch.cat([x[:3].double() @ w[0].double().T, x[3:].double() @ w[1].double().T])
    exact[:3] += bias[0].double()
    exact[3:] += bias[1].double()
    assert float((got.double() - exact).abs().max() / exact.abs().max()) < 2.0**-8
    assert _with_bias(w, None).data_ptr() == w.data_ptr()
