"""A router that rounds as it declares is right, one that rounds otherwise is not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moe.reference.router_rounding import Interval, rounded_scores
from moe.reference.routing import RoutingTruth
from moe.router_numerics import PLACES, PLAIN, RouterNumerics
from moe.spec import RoutingMethod
from tests.moe.rounded_routers import DTYPES, RoundedRouter

TOKENS = 48
STATED = ("f32", "bf16", "fp16", "logits", "model")


@st.composite
def numerics(draw):
    """Any roundings, or those of torch functions, most of whose values have the logits' dtype."""
    places = {name: st.sampled_from(STATED) for name in PLACES}
    if draw(st.booleans()):
        name = draw(st.sampled_from(PLACES))
        return RouterNumerics.as_torch(**{name: draw(places[name])})
    return RouterNumerics(**{name: draw(choices) for name, choices in places.items()})


@st.composite
def layers(draw):
    """A routing method, its bias, its logits and the layer's dtype."""
    groups = draw(st.sampled_from([1, 1, 4]))
    experts = draw(st.sampled_from([4, 8, 64])) * (1 if groups == 1 else 4)
    kept = draw(st.integers(1, groups))
    method = RoutingMethod(
        router=draw(st.sampled_from(["softmax", "sigmoid", "softplus_sqrt"])),
        top_k=draw(st.integers(1, min(10, experts // groups * kept))),
        renormalize=draw(st.booleans()),
        bias=draw(st.booleans()),
        groups=groups,
        chosen_groups=kept,
        scale=draw(st.sampled_from([1.0, 2.5])),
        logits_dtype="f32",
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    size, shift = draw(st.sampled_from([0.1, 1.0, 4.0])), draw(st.sampled_from([0.0, -6.0, 3.0]))
    logits = torch.randn(TOKENS, experts, generator=generator) * size + shift
    bias = torch.randn(experts, generator=generator) * size / 4 if method.bias else None
    return method, bias, logits.to(DTYPES[draw(st.sampled_from(sorted(DTYPES)))])


def truth_of(layer, stated, model):
    method, bias, logits = layer
    name = next(name for name, dtype in DTYPES.items() if dtype == logits.dtype)
    fields = {"bias": method.bias, "renormalize": method.renormalize}
    resolved = stated.resolved(logits=name, model=model, **fields)
    return RoutingTruth(method=method, bias=bias, numerics=resolved)


def routed(layer, made, model):
    method, bias, logits = layer
    return RoundedRouter(method=method, numerics=made, model=model, bias=bias)(logits)


@settings(max_examples=150, deadline=None)
@given(layers(), numerics(), st.sampled_from(["bf16", "fp16"]))
def test_a_router_that_rounds_as_it_declares_is_right(layer, stated, model):
    ids, weights = routed(layer, stated, model)
    assume(bool(weights.isfinite().all()))  # scores of fp16 may all be 0, and so may their sum
    assert truth_of(layer, stated, model).errors(layer[2], ids.int(), weights) == []


ROUNDED_MORE = ("scores", "chosen", "total", "weights", "scaled")


@settings(max_examples=100, deadline=None)
@given(layers(), numerics(), st.sampled_from(ROUNDED_MORE), st.sampled_from(["bf16", "fp16"]))
def test_a_router_that_rounds_more_than_it_declares_is_wrong(layer, stated, place, dtype):
    """Wherever that changes the weights of the same experts by more than float32's noise."""
    stated = dataclasses.replace(stated, **{place: "f32"})
    ids, weights = routed(layer, stated, "bf16")
    others, rounded = routed(layer, dataclasses.replace(stated, **{place: dtype}), "bf16")
    same = (ids == others).all(dim=1)
    moved = (rounded - weights).abs().amax(dim=1) > 2**-13 * weights.amax(dim=1)
    assume(int((same & moved).sum()) > TOKENS // 4)
    (text,) = truth_of(layer, stated, "bf16").errors(layer[2], others.int(), rounded)
    assert "tokens have wrong weights" in text or "leave out a better expert" in text


@settings(max_examples=60, deadline=None)
@given(layers(), numerics(), st.sampled_from(["bf16", "fp16"]))
def test_a_router_that_does_not_round_as_it_declares_is_wrong(layer, stated, model):
    ids, weights = routed(layer, PLAIN, model)
    others, rounded = routed(layer, stated, model)
    same = (ids == others).all(dim=1)
    moved = (rounded - weights).abs().amax(dim=1) > 2**-13 * weights.amax(dim=1)
    assume(int((same & moved).sum()) > TOKENS // 4)
    assert truth_of(layer, stated, model).errors(layer[2], ids.int(), weights)


@settings(max_examples=60, deadline=None)
@given(layers(), numerics(), st.sampled_from(["bf16", "fp16"]), st.integers(0, TOKENS - 1))
def test_a_better_expert_that_is_left_out_is_wrong(layer, stated, model, token):
    """The best expert of one token is exchanged for the worst one."""
    ids, weights = routed(layer, stated, model)
    logits = layer[2]
    truth = truth_of(layer, stated, model)
    keys = truth.rounded_keys(logits)
    best, worst = int(ids[token, 0]), int(keys.values[token].argmin())
    low, high = keys.values - keys.noise / 2, keys.values + keys.noise / 2
    assume(worst not in ids[token] and bool(low[token, best] > high[token, worst]))
    ids[token, ids[token] == best] = worst
    (text,) = truth.errors(logits, ids.int(), weights)
    assert text.startswith("routing: 1 of 48 tokens leave out a better expert")


def test_where_roundings_make_scores_equal_either_expert_is_right():
    """1 - 2**-9 is between two numbers of bf16, and is rounded to 1."""
    logits = torch.tensor([[7.0, 8.0, 9.0, -1.0]])
    method = RoutingMethod(router="sigmoid", top_k=1, renormalize=True)
    narrow = dataclasses.replace(PLAIN, scores="bf16")
    one = torch.ones(1, 1)
    for numerics_, right in ((PLAIN, [2]), (narrow, [0, 1, 2])):
        truth = RoutingTruth(method=method, numerics=numerics_)
        valid = [e for e in range(4) if truth.errors(logits, torch.tensor([[e]]), one) == []]
        assert valid == right


def test_a_message_says_which_roundings_were_declared():
    logits = torch.tensor([[1.0, 0.5, 0.25]])
    truth = RoutingTruth(
        method=RoutingMethod(top_k=2), numerics=dataclasses.replace(PLAIN, weights="bf16")
    )
    (text,) = truth.errors(logits, torch.tensor([[0, 1]]), torch.tensor([[0.6225, 0.3775]]))
    assert text == (
        "routing: 1 of 1 tokens have wrong weights, first token 0 slot 0: 0.6225, expected "
        '0.621094, rounded as in RouterNumerics(weights="bf16")'
    )


def test_an_interval_near_a_tie_has_both_neighbours():
    tie = 1 + 2.0**-8  # between 1 and the next number of bf16
    values = torch.tensor([1.0, tie, 1.5], dtype=torch.float64)
    kept = Interval.around(values).kept_in("bf16")
    assert kept.low.tolist() == [1.0, 1.0, 1.5]
    assert kept.high.tolist() == [1.0, 1 + 2.0**-7, 1.5]
    assert kept.exclude(torch.tensor([1.0, 1.0, torch.nan])).tolist() == [False, False, True]


def test_sums_and_products_that_float32_holds_have_no_noise():
    half = 1 + 2.0**-8  # the sum of two numbers of bf16 that is a tie
    values = torch.tensor([[1.0, 2.0**-8]], dtype=torch.float64)
    exact = Interval(low=values, high=values)
    assert float(exact.summed("bf16").high) == half
    assert float(exact.summed("bf16").kept_in("bf16").high) == 1
    assert half < float(exact.summed("f32").high) < half * (1 + 2.0**-19)
    assert float(exact.summed("f32").kept_in("bf16").high) == 1 + 2.0**-7
    far = torch.tensor([[1.0, 2.0**-30]], dtype=torch.float64)
    assert float(Interval(low=far, high=far).summed("bf16").high) > 1 + 2.0**-21
    assert torch.equal(exact.times(2.5).high, values * 2.5)
    assert bool((exact.times(0.1).high > values * 0.1).all())


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("router", ["softmax", "sigmoid", "softplus_sqrt"])
def test_few_weights_may_be_rounded_either_way(router, scale):
    """Of 512 x 8 weights all of whose steps are in bf16; else a wrong rounding could pass."""
    logits = torch.randn(512, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    method = RoutingMethod(router=router, top_k=8, scale=scale, logits_dtype="f32")
    truth = truth_of((method, None, logits), RouterNumerics.as_torch(), "bf16")
    limits = truth.limits(logits, logits.float().topk(8, dim=1).indices)
    assert float((limits.low < limits.high).double().mean()) < 0.05


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_a_truth_without_scores_of_all_experts_weighs_them(router):
    """A row that takes neither a bias nor groups needs no `scores`."""

    class Weighs:
        def weights(self, logits, topk_ids, *, renormalize):
            return truth.router.weights(logits, topk_ids, renormalize=renormalize)

    logits = torch.randn(4, 6)
    numerics_ = dataclasses.replace(PLAIN, scores="bf16")
    truth = RoutingTruth(method=RoutingMethod(router=router, top_k=2), numerics=numerics_)
    plain = rounded_scores(truth.router, logits, numerics_)
    assert torch.equal(rounded_scores(Weighs(), logits, numerics_).middle, plain.middle)


LOG_SUM = RouterNumerics(weights="logits", scaled="same", log_sum="logits")


def log_sum_errors(weights_of, dtype, *, size=2.0, shift=0.0, stated=LOG_SUM):
    """What is wrong with weights by a function of logits [T, E], judged by these numerics."""
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(256, 24, generator=generator) * size + shift).to(DTYPES[dtype])
    method = RoutingMethod(top_k=4, renormalize=False)
    layer = {"logits": dtype, "model": dtype, "bias": False, "renormalize": False}
    truth = RoutingTruth(method=method, numerics=stated.resolved(**layer))
    ids = logits.topk(4, dim=1).indices
    return truth.errors(logits, ids.int(), weights_of(logits).gather(1, ids).float())


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "f32"])
@pytest.mark.parametrize(("size", "shift"), [(2.0, 0.0), (0.5, 1.0), (1.0, -9.0), (0.3, 40.0)])
def test_a_softmax_by_torch_s_log_sum_is_right_and_no_other_is(dtype, size, shift):
    """In float32 logsumexp is rounded too coarsely only where the logits are large."""
    inputs = {"dtype": dtype, "size": size, "shift": shift}

    def by_log_sum(logits):
        return (logits - torch.logsumexp(logits, 1, keepdim=True)).exp()

    def rounded_once(logits):
        return torch.softmax(logits, 1)

    def with_a_sum_in_float32(logits):
        total = torch.logsumexp(logits.float(), 1, keepdim=True).to(logits.dtype)
        return (logits - total).exp()

    if dtype == "f32":
        assert log_sum_errors(rounded_once, **inputs) == []
        return
    assert log_sum_errors(by_log_sum, **inputs) == []
    for other in (rounded_once, with_a_sum_in_float32):
        assert "have wrong weights" in log_sum_errors(other, **inputs)[0]
    once = RouterNumerics(weights="logits", scaled="same")
    assert log_sum_errors(rounded_once, **inputs, stated=once) == []
    assert "have wrong weights" in log_sum_errors(by_log_sum, **inputs, stated=once)[0]
