"""The router's kernel against its twin and the reference, and its stated rules for ties and NaN."""

import pytest
import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels.top_k import SCORES, top_k_routing, top_k_routing_torch
from moe.reference.routing import RoutingTruth
from moe.routing_method import RoutingMethod

BOTH = pytest.mark.parametrize("do", [top_k_routing, top_k_routing_torch])
TRUTH = {"chosen": "topk_softmax"}  # other scores have the name of their router
OPTIONS = [
    {},
    {"scale": 2.5},
    {"bias": True},
    {"groups": 4, "chosen_groups": 2},
    {"bias": True, "groups": 4, "chosen_groups": 3, "scale": 0.5},
]


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "renormalize"), [(33, 12, 3, True), (5, 128, 8, False)]
)
def test_kernel_twin_and_reference_agree(
    scores, options, tokens, experts, top_k, renormalize, kernel_device
):
    torch.manual_seed(0)
    logits = torch.randn(tokens, experts, device=kernel_device).bfloat16()
    options = dict(options)
    bias = torch.randn(experts, device=kernel_device) if options.pop("bias", False) else None
    if scores == "chosen" and (bias is not None or "groups" in options):
        pytest.skip("chosen by logits alone")
    asked = {**options, "bias": bias, "renormalize": renormalize}
    with guarded_buffers.poisoned():
        got = top_k_routing(logits, top_k, scores, **asked)
        assert guarded_buffers.broken_guards() == []
    wanted = top_k_routing_torch(logits, top_k, scores, **asked)
    method = RoutingMethod(
        router=TRUTH.get(scores, scores),
        top_k=top_k,
        renormalize=renormalize,
        bias=bias is not None,
        **options,
    )
    truth = RoutingTruth(method=method, bias=bias)
    for routing in (got, wanted):
        assert truth.errors(logits, routing.topk_ids, routing.topk_weights) == []
    torch.testing.assert_close(got.topk_weights, wanted.topk_weights, rtol=2.0**-20, atol=0)
    assert torch.equal(got.topk_ids, wanted.topk_ids)


@BOTH
@pytest.mark.parametrize("scores", SCORES)
def test_of_equal_experts_the_lowest_ids_are_chosen(do, scores, kernel_device):
    logits = torch.tensor([[1.0, 2, 2, 2, 1, 1], [3.0] * 6], device=kernel_device)
    got = do(logits, 4, scores, renormalize=True)
    assert got.topk_ids.tolist() == [[1, 2, 3, 0], [0, 1, 2, 3]]


@BOTH
def test_of_equal_groups_the_first_are_chosen(do, kernel_device):
    logits = torch.ones(2, 8, device=kernel_device)
    got = do(logits, 3, "sigmoid", renormalize=True, groups=4, chosen_groups=2)
    assert got.topk_ids.tolist() == [[0, 1, 2]] * 2


@BOTH
def test_negative_keys_of_a_kept_group_win_over_a_masked_one(do, kernel_device):
    logits = torch.tensor([[0.0, 0.0, 1.0, -4.0]], device=kernel_device)
    bias = torch.full((4,), -2.0, device=kernel_device)
    got = do(logits, 2, "sigmoid", renormalize=False, bias=bias, groups=2, chosen_groups=1)
    assert got.topk_ids.tolist() == [[0, 1]]
    assert got.topk_weights.tolist() == [[0.5, 0.5]]


@BOTH
@pytest.mark.parametrize("scores", SCORES)
def test_large_logits_overflow_nothing(do, scores, kernel_device):
    logits = torch.tensor([[-100.0, 100, -100, 99.5], [-50.0, -51, -52, -53]]).to(kernel_device)
    got = do(logits, 2, scores, renormalize=True)
    assert got.topk_ids.tolist()[0] == [1, 3]
    assert bool(got.topk_weights.isfinite().all())
    torch.testing.assert_close(got.topk_weights.sum(dim=1)[0].item(), 1.0)


@BOTH
@pytest.mark.parametrize("scores", SCORES)
def test_a_nan_gives_ids_in_range_and_weights_of_nan_to_its_token_alone(do, scores, kernel_device):
    logits = torch.randn(3, 6, device=kernel_device)
    clean = do(logits, 2, scores, renormalize=True)
    logits[1, 4] = torch.nan
    got = do(logits, 2, scores, renormalize=True)
    assert got.topk_ids[1].tolist() == [0, 1]
    assert bool(got.topk_weights[1].isnan().all())
    for row in (0, 2):
        assert torch.equal(got.topk_weights[row], clean.topk_weights[row])
        assert torch.equal(got.topk_ids[row], clean.topk_ids[row])


@BOTH
def test_all_experts_can_be_chosen_and_no_tokens_give_nothing(do, kernel_device):
    logits = torch.randn(2, 5, device=kernel_device)
    assert (
        do(logits, 5, "softmax", renormalize=False).topk_ids.sort().values.tolist()
        == [[0, 1, 2, 3, 4]] * 2
    )
    assert do(logits[:0], 5, "softmax", renormalize=False).topk_ids.shape == (0, 5)


@BOTH
@pytest.mark.parametrize(
    ("top_k", "options", "text"),
    [
        (7, {}, "top_k 7 is larger than the number of logits, 6; lower it"),
        (2, {"groups": 4, "chosen_groups": 2}, "6 experts do not divide into 4 groups of equal"),
        (2, {"bias": torch.zeros(5)}, r"the bias has shape \[5\]; it must have \[6\]"),
    ],
)
def test_what_does_not_fit_is_named(do, top_k, options, text, kernel_device):
    with pytest.raises(MoEError, match=text):
        do(torch.zeros(1, 6, device=kernel_device), top_k, "softmax", renormalize=True, **options)
