"""vLLM's choice of experts in torch beside the truth of its scores, where vLLM is installed."""

import pytest
import torch

from moe.reference.routing import RoutingTruth
from moe.routers import ROUTERS
from moe.routers.vllm_torch.spec import PACKAGE, VLLM_TORCH_ROUTERS
from moe.routing_method import RoutingMethod
from moe.types import TORCH_DTYPE
from tests.moe.released_subjects import needs

LOGITS = (torch.rand(9, 12, generator=torch.Generator().manual_seed(0)) + 1).float()


def test_what_each_row_takes():
    options = {"bias", "groups", "scale", "logits_dtype"}
    assert {row.name: row.takes for row in VLLM_TORCH_ROUTERS} == {
        "vllm_grouped_softmax": options,
        "vllm_grouped_sigmoid": options,
        "vllm_cpu_grouped_sigmoid": options,
        "vllm_cpu_softmax": {"logits_dtype"},
    }


@needs(PACKAGE)
@pytest.mark.parametrize("row", VLLM_TORCH_ROUTERS[:3], ids=lambda row: row.name)
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"groups": 4, "chosen_groups": 2}])
def test_it_routes_as_the_truth_of_its_scores(row, options):
    has_bias = bool(options)
    fields = {"router": row.name.rpartition("_")[2], "top_k": 3, "scale": 2.5}
    method = RoutingMethod(**fields, **(options | {"bias": has_bias}))
    bias = torch.linspace(0, 0.3, 12)
    got = ROUTERS.load(row.name)()(
        LOGITS, 3, renormalize=True, **method.arguments(bias if has_bias else None)
    )
    assert (got.topk_ids.dtype, got.topk_weights.dtype) == (torch.int32, torch.float32)
    truth = RoutingTruth(method=method, bias=bias if has_bias else None)
    assert truth.errors(LOGITS, got.topk_ids, got.topk_weights) == []


@needs(PACKAGE)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("shift", [-20.0, 0.0, 40.0])
def test_what_it_loses_is_what_its_row_states(dtype, shift):
    logits = (LOGITS * 4 + shift).to(TORCH_DTYPE[dtype])
    method = RoutingMethod(router="vllm_cpu_softmax", top_k=3, renormalize=False)
    got = ROUTERS.load("vllm_cpu_softmax")()(logits, 3, renormalize=False)
    (numerics,) = ROUTERS.row("vllm_cpu_softmax").roundings(method, dtype)
    truth = RoutingTruth(method=method, numerics=numerics)
    assert truth.errors(logits, got.topk_ids, got.topk_weights) == []
    doubled = got.topk_weights * (1 + 2.0**-7)
    assert "have wrong weights" in truth.errors(logits, got.topk_ids, doubled)[0]


@needs(PACKAGE)
def test_the_softmax_of_the_cpu_loses_digits_with_bf16_logits():
    """docs/found.md says this of version 0.33.0: once it fails, mend that page."""
    route = ROUTERS.load("vllm_cpu_softmax")()
    truth = RoutingTruth(method=RoutingMethod(top_k=3, renormalize=False))
    got = route(LOGITS, 3, renormalize=False)
    assert truth.errors(LOGITS, got.topk_ids, got.topk_weights) == []
    logits = (LOGITS + 40).bfloat16()
    got = route(logits, 3, renormalize=False)
    right = torch.softmax(logits.double(), 1).gather(1, got.topk_ids.long()).sum(1)
    assert (got.topk_weights.double().sum(1) / right - 1).abs().max() > 0.05
