"""transformers' experts under each implementation: absent slots, no rows, sizes and dtypes."""

import dataclasses

import pytest
import torch

from moe import released
from moe.experts import EXPERTS
from moe.layout import Layout
from moe.platforms import platform
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
from tests.moe.released_subjects import needs

pytestmark = needs(released.TRANSFORMERS_EXPERTS)
NAMES = ("transformers_eager", "transformers_batched_mm", "transformers_grouped_mm")
EP = Layout(dp_size=2, use_ep=True)


def made(unused=0.0, **sizes):
    layer_spec, quant = layer_spec_of("none", **sizes), QUANT.load("none")()
    device = torch.device("cpu")
    weights = weights_of(layer_spec, quant, device)
    x = input_of(layer_spec, quant, weights, device)
    return layer_spec, quant, weights, x, routing_of(layer_spec, device, unused)


def run(name, layer_spec, quant, weights, x, routing):
    experts = EXPERTS.load(name)(layer_spec, 0, EXPERTS.row(name).numerics, quant)
    experts.num_local = weights.w2.shape[0]
    experts.prepare_weights(weights)
    with torch.inference_mode():
        return experts.apply(x, routing)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", [Layout(), EP], ids=["alone", "ep"])
@pytest.mark.parametrize("unused", [0.0, 0.5])
def test_slots_without_an_expert_on_this_rank_add_nothing(name, layout, unused):
    layer_spec, *rest = made(unused, hidden=72, intermediate=136, num_experts=5, top_k=3)
    wanted = expected_output(layer_spec, *rest)
    layer_spec = dataclasses.replace(layer_spec, layout=layout)
    reason = EXPERTS.row(name).needs.refusal(layer_spec, platform("cpu"))
    if reason is not None:
        pytest.skip(reason.text)  # eager experts before 5.18
    got = run(name, layer_spec, *rest)
    assert got.dtype == torch.bfloat16
    assert relative_rms(got, wanted) < 0.006  # of rounding SiLU(gate) and each term
    nobody = (rest[-1].topk_ids < 0).all(dim=1)
    assert same(got[nobody], torch.zeros_like(got[nobody]))


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize(("dtype", "bound"), [("fp16", 1e-3), ("f32", 1e-6)])
def test_other_dtypes_are_as_exact_as_they_can_be(name, dtype, bound):
    case = made(dtype=dtype)
    assert relative_rms(run(name, *case), expected_output(*case)) < bound


@pytest.mark.parametrize("name", NAMES)
def test_the_activation_is_the_layers(name):
    case = made(activation="gelu_tanh")
    silu = expected_output(*case)
    got = run(name, *case)
    assert 0.1 < relative_rms(got, silu) < 1.0


@pytest.mark.parametrize("name", NAMES)
def test_no_tokens_and_no_experts_give_no_sums(name):
    layer_spec, quant, weights, x, routing = made()
    none = Routing(topk_ids=routing.topk_ids[:0], topk_weights=routing.topk_weights[:0])
    empty = run(name, layer_spec, quant, weights, Activations(codes=x.codes[:0]), none)
    assert empty.shape == (0, layer_spec.hidden)
    nothing = weights.replace(w13=weights.w13[:0], w2=weights.w2[:0])
    nobody = dataclasses.replace(routing, topk_ids=torch.full_like(routing.topk_ids, -1))
    layer_spec = dataclasses.replace(layer_spec, layout=EP)
    got = run(name, layer_spec, quant, nothing, x, nobody)
    assert same(got, torch.zeros_like(x.codes))


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_kept_as_they_are(name):
    layer_spec, quant, weights, _, _ = made()
    experts = EXPERTS.load(name)(layer_spec, 0, EXPERTS.row(name).numerics, quant)
    experts.prepare_weights(weights)
    kept = {parameter.data_ptr() for parameter in experts._module.parameters()}
    assert kept == {weights.w13.data_ptr(), weights.w2.data_ptr()}
