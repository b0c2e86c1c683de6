"""The monolithic experts: they route as the layer says, and tell nobody."""

import dataclasses

import pytest
import torch

from moe import guarded_buffers, layer
from moe.collectives import ALONE, Groups
from moe.errors import MoEError, RefusedError
from moe.experts import EXPERTS
from moe.experts.torch_monolithic import METHODS, dense_routing
from moe.layout import Layout
from moe.platforms import platform
from moe.quant import QUANT
from moe.reference import routing as true_routing
from moe.routers import ROUTERS
from moe.routing import RouterWeights
from moe.spec import RoutingMethod
from moe.types import Routing
from tests.moe.kernels.kernel_cases import (
    QUANTS,
    input_of,
    layer_spec_of,
    same,
    weights_of,
)

CPU = torch.device("cpu")
ROW = EXPERTS.row("torch_monolithic")
pytestmark = pytest.mark.usefixtures("one_thread")


def chosen(logits, spec):
    ids = true_routing.choose(logits, spec.top_k, spec.router)
    options = {"renormalize": spec.renormalize, "router": spec.router}
    return Routing(topk_ids=ids, topk_weights=true_routing.weights(logits, ids, **options))


def run(name, layer_spec, quant, weights, *arguments, rank=0):
    experts = EXPERTS.load(name)(layer_spec, rank, ROW.numerics, quant)
    experts.prepare_weights(weights)
    with guarded_buffers.poisoned():
        out = experts.apply(*arguments)
        assert guarded_buffers.broken_guards() == []
    return out


def made(quant_name="none", **fields):
    torch.manual_seed(0)
    layer_spec, quant = layer_spec_of(quant_name, **fields), QUANT.load(quant_name)()
    weights = weights_of(layer_spec, quant, CPU)
    x = input_of(layer_spec, quant, weights, CPU)
    return layer_spec, quant, weights, x, torch.randn(layer_spec.m, layer_spec.num_experts)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("router", sorted(METHODS))
def test_it_routes_as_the_reference_of_the_router_that_the_layer_names(router, renormalize):
    spec, *_, logits = made(router=router, renormalize=renormalize)
    is_chosen, weights = dense_routing(logits, spec.routing_method, None)
    expected = chosen(logits, spec)
    assert torch.equal(is_chosen.sum(dim=1), torch.full((spec.m,), spec.top_k)), (
        "k experts for each token"
    )
    got = weights.gather(1, expected.topk_ids.long())
    assert torch.allclose(got, expected.topk_weights, rtol=1e-6, atol=0)
    assert torch.equal(weights == 0, ~is_chosen)


def test_its_row_names_the_routers_that_it_computes():
    assert ROW.needs.routers == METHODS.keys()
    others = [row for row in ROUTERS if row.name not in METHODS]
    assert others, "a router that it does not compute"
    for row in others:
        spec = layer_spec_of("none", router=row.name)
        with pytest.raises(MoEError, match=f"routes by softmax, sigmoid, not '{row.name}'"):
            dense_routing(torch.zeros(2, 8), spec.routing_method, None)
        names = layer.Members(experts=ROW.name, all2all="local", quant="none")
        text = f"router_unsupported: routes by sigmoid, softmax, not {row.name}"
        with pytest.raises(RefusedError, match=text):
            layer.check(spec, platform("cpu"), names)


@pytest.mark.parametrize("quant_name", QUANTS)
@pytest.mark.parametrize("router", sorted(METHODS))
def test_its_output_is_that_of_the_loop_with_the_same_routing(quant_name, router):
    given, logits = (made(quant_name, router=router)[:4]), made(quant_name, router=router)[4]
    expected = run("torch_loop", *given, chosen(logits, given[0]))
    assert torch.allclose(run(ROW.name, *given, logits).float(), expected.float(), rtol=1e-2)


def test_a_rank_computes_its_own_experts_only():
    spec, quant, weights, x, logits = made()
    spec = dataclasses.replace(spec, layout=Layout(dp_size=2, use_ep=True))
    parts = []
    for rank in range(2):
        local = list(spec.experts_of(rank))
        part = weights.replace(w13=weights.w13[local], w2=weights.w2[local])
        parts.append(run(ROW.name, spec, quant, part, x, logits, rank=rank))
    full = run(ROW.name, dataclasses.replace(spec, layout=Layout()), quant, weights, x, logits)
    assert torch.allclose(sum(p.float() for p in parts), full.float(), rtol=2e-2, atol=1e-2)
    assert not same(parts[0], full)


def test_no_tokens_and_no_experts_give_zeros_of_the_right_shape():
    spec, quant, weights, x, logits = made()
    empty = x.replace(codes=x.codes[:0])
    assert run(ROW.name, spec, quant, weights, empty, logits[:0]).shape == (0, spec.hidden)
    spec = dataclasses.replace(spec, num_experts=1, top_k=1, layout=Layout(dp_size=2, use_ep=True))
    nothing = weights.replace(w13=weights.w13[:0], w2=weights.w2[:0])
    got = run(ROW.name, spec, quant, nothing, x, logits[:, :1], rank=1)
    assert same(got, torch.zeros(spec.m, spec.hidden, dtype=torch.bfloat16))


def test_the_layer_hides_its_routing_and_names_who_routed():
    spec, _, weights, x, logits = made()
    names = layer.Members(experts=ROW.name, all2all="allgather_reducescatter", quant="none")
    built = layer.build(spec, 0, Groups(gather=ALONE, tp=ALONE), names, weights)
    assert type(built.kernel) is layer.MonolithicKernel
    assert built.members["router"] == built.members["experts"] == "TorchMonolithicExperts"
    output = built.forward(x.codes, logits)
    assert output.routing is None
    expected = run("torch_loop", *made()[:4], chosen(logits, spec))
    assert torch.allclose(output.out.float(), expected.float(), rtol=1e-2)


def method(**fields):
    return RoutingMethod(**{"router": "sigmoid", "top_k": 2, "renormalize": False} | fields)


def test_a_bias_chooses_and_does_not_weigh():
    logits, bias = torch.tensor([[3.0, 2.0, 1.0, -4.0]]), torch.tensor([0.0, -1.0, 0.0, 9.0])
    is_chosen, weights = dense_routing(logits, method(bias=True), bias)
    assert is_chosen.tolist() == [[True, False, False, True]]
    assert torch.equal(weights[0, [0, 3]], torch.sigmoid(logits[0, [0, 3]]))
    with pytest.raises(MoEError, match="has a bias, and router_bias is None"):
        dense_routing(logits, method(bias=True), None)


def test_only_the_best_groups_are_chosen_from_by_the_sum_of_their_two_best():
    logits = torch.tensor([[3.0, -9.0, -9.0, 2.0, 2.0, -9.0, -2.0, -3.0, -4.0]])
    is_chosen, _ = dense_routing(logits, method(groups=3, chosen_groups=1), None)
    assert is_chosen.nonzero()[:, 1].tolist() == [3, 4]
    all_groups, _ = dense_routing(logits, method(groups=3, chosen_groups=3), None)
    assert 0 in all_groups.nonzero()[:, 1].tolist()


def test_weights_are_scaled_after_they_are_renormalized():
    _, weights = dense_routing(torch.randn(3, 6), method(renormalize=True, scale=2.5), None)
    assert torch.allclose(weights.sum(dim=1), torch.full((3,), 2.5))


def test_an_option_that_its_row_does_not_name_is_refused():
    names = layer.Members(experts=ROW.name, all2all="local", quant="none")
    spec = layer_spec_of("none", top_k=1, weights_input=True)
    text = "routing_option_unsupported: routes by itself, and does not name 'weights_input' in its"
    with pytest.raises(RefusedError, match=text):
        layer.check(spec, platform("cpu"), names)


def test_the_layer_hands_the_bias_to_it():
    spec, _, weights, x, logits = made(router="sigmoid", router_bias=True)
    names = layer.Members(experts=ROW.name, all2all="local", quant="none")
    bias = torch.zeros(spec.num_experts)
    bias[5] = 9.0
    built = layer.build(
        *(spec, 0, Groups(gather=ALONE, tp=ALONE), names, weights),
        router_weights=RouterWeights(bias=bias),
    )
    is_chosen, _ = dense_routing(logits, spec.routing_method, built.kernel.experts.router_bias)
    assert bool(is_chosen[:, 5].all())
    assert not same(built.forward(x.codes, logits).out, torch.zeros_like(x.codes))
