"""A plain function is a router by its path, judged by the form of what it returns."""

import re

import pytest
import torch

from harness.matrix.case import MoETestConfig
from harness.plan.machine import planned_for
from harness.plan.refusals import Judge
from moe.errors import MoEError
from moe.routers import ROUTERS

PATH = f"{__name__}:by_square"
CASE = MoETestConfig(m=4, n=64, k=64, num_experts=8, top_k=2, experts="torch_loop", router=PATH)


def by_square(hidden_states, logits, top_k, renormalize):
    assert hidden_states is None
    weights, ids = logits.float().square().topk(top_k, dim=1)
    return (weights / weights.sum(dim=1, keepdim=True) if renormalize else weights), ids


def test_a_function_becomes_a_router_without_a_reference():
    row = ROUTERS.row(PATH)
    assert (row.name, row.is_judged, row.sums_to_one) == (PATH, False, False)
    got = ROUTERS.load(PATH)()(torch.tensor([[1.0, -3.0, 2.0]]), 2, renormalize=True)
    assert got.topk_ids.tolist() == [[1, 2]]
    assert (got.topk_ids.dtype, got.topk_weights.dtype) == (torch.int32, torch.float32)
    torch.testing.assert_close(got.topk_weights, torch.tensor([[9.0, 4.0]]) / 13)


def refusal(**fields):
    reason = Judge(planned_for("cpu"))(CASE.replace(**fields))[1]
    return reason and reason.code


def test_what_needs_a_reference_of_the_choice_is_refused():
    assert refusal() is None
    assert refusal(router_bias=True) == "router_unsupported"
    assert refusal(quant="fp8_tensor_dynamic") == "router_unjudged"
    assert refusal(exact=True) == "router_unjudged"
    assert refusal(gate=True) is None


@pytest.mark.parametrize("name", [f"{__name__}:absent", "no_such_package.module:fn"])
def test_a_function_that_cannot_be_loaded_is_named(name):
    with pytest.raises(MoEError, match=f"cannot load routers '{name}'"):
        ROUTERS.row(name)


def exchanged(hidden_states, logits, top_k, renormalize):
    weights, ids = by_square(hidden_states, logits, top_k, renormalize)
    return ids, weights


def alone(hidden_states, logits, top_k, renormalize):
    return by_square(hidden_states, logits, top_k, renormalize)[0]


@pytest.mark.parametrize(
    ("function", "returned"),
    [(exchanged, "(torch.int64, torch.float32)"), (alone, "(Tensor)")],
)
def test_a_function_that_returns_anything_but_weights_and_ids_is_named(function, returned):
    router = ROUTERS.load(f"{__name__}:{function.__name__}")()
    rule = r"; it must return \(weights, ids\), both \[T, k\]: floating point, and integers"
    with pytest.raises(MoEError, match=f"{function.__name__} returned {re.escape(returned)}{rule}"):
        router(torch.ones(2, 4), 2, renormalize=True)
