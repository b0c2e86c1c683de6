"""The router's truth, and each complaint that it can make."""

from __future__ import annotations

import pytest
import torch

from moe.reference import routing
from moe.routers.softmax.member import SoftmaxTopK
from moe.routing import to_local_ids

LOGITS = torch.tensor([[0.5, 2.0, -1.0, 1.0], [0.0, 0.0, 3.0, -2.0]])


@pytest.mark.parametrize("renormalize", [True, False])
def test_the_stack_router_is_right(renormalize: bool) -> None:
    logits = torch.randn(64, 16).bfloat16()
    got = SoftmaxTopK()(logits, 4, renormalize=renormalize)
    assert got.topk_ids.dtype == torch.int32
    args = (logits, got.topk_ids, got.topk_weights)
    assert routing.routing_errors(*args, renormalize=renormalize) == []
    (wrong,) = routing.routing_errors(*args, renormalize=not renormalize)
    assert "64 of 64 tokens have wrong weights, first token 0 slot 0" in wrong


def test_renormalised_weights_sum_to_one() -> None:
    weights = routing.weights(LOGITS, routing.choose(LOGITS, 2), renormalize=True)
    assert torch.allclose(weights.sum(dim=1), torch.ones(2))
    assert routing.choose(LOGITS, 2).tolist() == [[1, 3], [2, 0]]


def complain(ids: list[list[int]]) -> str:
    topk_ids = torch.tensor(ids, dtype=torch.int32)
    weights = routing.weights(LOGITS, topk_ids.clamp(0, 3), renormalize=True)
    (text,) = routing.routing_errors(LOGITS, topk_ids, weights, renormalize=True)
    return text


def test_either_of_two_equal_logits_is_right() -> None:
    for tied in (0, 1):
        ids = torch.tensor([[1, 3], [2, tied]], dtype=torch.int32)
        weights = routing.weights(LOGITS, ids, renormalize=True)
        assert routing.routing_errors(LOGITS, ids, weights, renormalize=True) == []


def test_complaints_name_token_and_numbers() -> None:
    assert complain([[1, 3], [2, 4]]) == "routing: token 1 is sent to [2, 4], experts are 0..3"
    assert complain([[1, 3], [2, 2]]) == (
        "routing: 1 tokens choose an expert twice, first token 1: [2, 2]"
    )
    assert complain([[1, 0], [2, 0]]) == (
        "routing: 1 of 2 tokens leave out a better expert, first token 0: chose logit 0.5 over 1"
    )


def test_nan_weights_are_wrong() -> None:
    ids = routing.choose(LOGITS, 2)
    weights = torch.full((2, 2), float("nan"))
    (text,) = routing.routing_errors(LOGITS, ids, weights, renormalize=True)
    assert "2 of 2 tokens have wrong weights" in text


def test_no_tokens_no_complaints() -> None:
    empty = torch.zeros(0, 4)
    assert routing.routing_errors(empty, empty.int(), empty, renormalize=True) == []


def test_local_ids() -> None:
    ids = torch.tensor([[0, 3], [-1, 5]], dtype=torch.int32)
    expert_map = torch.tensor([-1, -1, -1, 0, 1, 2], dtype=torch.int32)
    assert to_local_ids(ids, expert_map).tolist() == [[-1, 0], [-1, 2]]
    assert to_local_ids(ids, torch.full_like(expert_map, -1)).tolist() == [[-1, -1], [-1, -1]]
