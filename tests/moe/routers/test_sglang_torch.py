"""SGLang's choice of experts in torch beside the truth of its scores, where SGLang is installed."""

import pytest
import torch

from moe.platforms import platform
from moe.reference.routing import RoutingTruth
from moe.routers import ROUTERS
from moe.routers.sglang_torch.spec import PACKAGE, SGLANG_TORCH_ROUTERS
from moe.routing_method import RoutingMethod, groups_have_a_bias
from moe.spec import LayerSpec
from tests.moe.released_subjects import needs

LOGITS = (torch.rand(9, 12, generator=torch.Generator().manual_seed(0)) + 1).float()


def test_what_each_row_takes():
    takes = {row.name: row.takes for row in SGLANG_TORCH_ROUTERS}
    assert takes == {
        "sglang_torch_softmax": {"scale", "logits_dtype"},
        "sglang_torch_sigmoid": {"bias", "groups", "scale", "logits_dtype"},
        "sglang_torch_softplus_sqrt": {"bias", "scale", "logits_dtype"},
        "sglang_raw_logits": {"logits_dtype"},
    }


def test_groups_without_a_bias_are_refused():
    sizes = {"m": 1, "hidden": 8, "intermediate": 8, "num_experts": 8, "top_k": 2}
    grouped = LayerSpec(**sizes, router="sigmoid", router_groups=4, chosen_groups=2)
    reason = groups_have_a_bias(grouped, platform("cpu"))
    rule = "without a bias it compares groups by their best expert, not by the two best"
    assert (reason.code, reason.text) == ("router_unsupported", rule)
    biased = LayerSpec(**sizes, router_groups=4, chosen_groups=2, router_bias=True)
    assert groups_have_a_bias(biased, platform("cpu")) is None
    assert groups_have_a_bias(LayerSpec(**sizes), platform("cpu")) is None


@needs(PACKAGE)
@pytest.mark.parametrize("scores", ["softmax", "sigmoid", "softplus_sqrt"])
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"groups": 4, "chosen_groups": 2}])
def test_it_routes_as_the_truth_of_its_scores(scores, renormalize, options):
    row = ROUTERS.row(f"sglang_torch_{scores}")
    if not set(options) - {"chosen_groups"} <= row.takes:
        assert scores != "sigmoid"
        return
    has_bias = bool(options)
    fields = {"router": scores, "top_k": 3, "renormalize": renormalize, "scale": 2.5}
    method = RoutingMethod(**fields, **(options | {"bias": has_bias}))
    bias = torch.linspace(0, 0.3, 12)
    got = ROUTERS.load(row.name)()(
        LOGITS, 3, renormalize=renormalize, **method.arguments(bias if has_bias else None)
    )
    assert (got.topk_ids.dtype, got.topk_weights.dtype) == (torch.int32, torch.float32)
    truth = RoutingTruth(method=method, bias=bias if has_bias else None)
    assert truth.errors(LOGITS, got.topk_ids, got.topk_weights) == []


@needs(PACKAGE)
def test_raw_logits_are_no_weights():
    """docs/found.md says this of version 0.5.23: once it fails, mend that page."""
    route = ROUTERS.load("sglang_raw_logits")()
    truth = RoutingTruth(method=RoutingMethod(top_k=3))
    got = route(LOGITS, 3, renormalize=True)
    assert truth.errors(LOGITS, got.topk_ids, got.topk_weights) == []
    got = route(LOGITS, 3, renormalize=False)
    assert torch.equal(got.topk_weights, LOGITS.gather(1, got.topk_ids.long()))
