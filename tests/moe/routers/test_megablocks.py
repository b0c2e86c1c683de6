"""MegaBlocks' router beside the truth of the softmax, where MegaBlocks is installed."""

import pytest
import torch

from harness.plan import machine
from harness.plan.refusals import Judge
from moe import packages
from moe.reference.routing import RoutingTruth
from moe.routers import ROUTERS
from moe.routers.megablocks.spec import MEGABLOCKS, PACKAGE
from moe.routing_method import RoutingMethod
from tests.harness.execute_ranks import case
from tests.moe.released_subjects import needs

LOGITS = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.skipif(packages.version("megablocks") is not None, reason="MegaBlocks is installed")
def test_without_the_package_a_case_is_refused():
    reason = Judge(machine.detect())(case(router=MEGABLOCKS.name))[1]
    assert (reason.code, reason.text) == (
        "package_missing",
        "megablocks_softmax: package 'megablocks' is not installed; needs megablocks>=0.10",
    )


@needs(PACKAGE)
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("top_k", [1, 3])
def test_it_routes_as_the_truth_of_the_softmax(top_k, renormalize):
    state = torch.get_rng_state()
    got = ROUTERS.load(MEGABLOCKS.name)()(LOGITS, top_k, renormalize=renormalize)
    assert torch.equal(torch.get_rng_state(), state), "its gate is made of no random numbers"
    assert (got.topk_ids.dtype, got.topk_weights.dtype) == (torch.int32, torch.float32)
    truth = RoutingTruth(method=RoutingMethod(top_k=top_k, renormalize=renormalize))
    assert truth.errors(LOGITS, got.topk_ids, got.topk_weights) == []


@needs(PACKAGE)
def test_a_call_without_tokens_routes_none():
    got = ROUTERS.load(MEGABLOCKS.name)()(LOGITS[:0], 2, renormalize=True)
    assert got.topk_ids.shape == got.topk_weights.shape == (0, 2)
