"""SGLang's fused router beside the truth of its scores, where SGLang is installed."""

import pytest
import torch

from moe.reference.routing import RoutingTruth
from moe.routers import ROUTERS
from moe.routers.sglang_gate import member
from moe.routers.sglang_gate.spec import PACKAGE, SGLANG_ROUTERS
from moe.routing_method import RoutingMethod
from tests.moe.released_subjects import needs

ROUTERS_OF = {
    "softmax": member.SglangSoftmax,
    "sigmoid": member.SglangSigmoid,
    "softplus_sqrt": member.SglangSoftplusSqrt,
}


def test_the_softmax_takes_neither_bias_nor_groups():
    """Its bias would weigh, too, and its groups are compared by logits instead of by scores."""
    takes = {row.name: row.takes for row in SGLANG_ROUTERS}
    assert takes["sglang_softmax"] == {"scale", "logits_dtype"}
    assert takes["sglang_sigmoid"] == {"bias", "groups", "scale", "logits_dtype"}


@needs(PACKAGE)
@pytest.mark.parametrize("scores", ROUTERS_OF)
@pytest.mark.parametrize("renormalize", [True, False])
def test_it_routes_as_the_truth_of_its_scores(scores, renormalize):
    # Without ties, the best two of each of four groups and their order differ from token to token.
    logits = (torch.rand(9, 12, generator=torch.Generator().manual_seed(0)) + 1).float()
    bias = torch.linspace(0, 0.3, 12)
    groups = {"groups": 4, "chosen_groups": 2} if scores != "softmax" else {}
    method = RoutingMethod(
        router=scores, top_k=3, renormalize=renormalize, bias=bool(groups), scale=2.5, **groups
    )
    got = ROUTERS_OF[scores]()(logits, 3, renormalize=renormalize, **method.arguments(bias))
    assert (got.topk_ids.dtype, got.topk_weights.dtype) == (torch.int32, torch.float32)
    truth = RoutingTruth(method=method, bias=bias if groups else None)
    assert truth.errors(logits, got.topk_ids, got.topk_weights) == []


@needs(PACKAGE)
def test_no_tokens_and_one_expert():
    route = ROUTERS.load("sglang_sigmoid")()
    assert route(torch.zeros(0, 8), 2, renormalize=True).topk_ids.shape == (0, 2)
    one = route(torch.zeros(3, 1), 1, renormalize=True)
    assert (one.topk_ids.tolist(), one.topk_weights.tolist()) == ([[0]] * 3, [[1.0]] * 3)


@needs(PACKAGE)
def test_a_group_with_two_equal_best_experts_is_left_out():
    """docs/found.md says this of version 0.5.23: once it fails, mend that page."""
    logits = torch.tensor([[2.0, 2.0, -4.0, -4.0, 1.0, 0.5, -4.0, -4.0]])
    method = RoutingMethod(router="sigmoid", top_k=2, groups=2, chosen_groups=1)
    got = member.SglangSigmoid()(logits, 2, renormalize=True, **method.arguments())
    assert got.topk_ids.tolist() == [[4, 5]]
    errors = RoutingTruth(method=method).errors(logits, got.topk_ids, got.topk_weights)
    assert errors == [
        "routing: 1 of 1 tokens leave out a better expert or group of experts, first token 0: "
        "chose score 0.622459 over 0.880797"
    ]
