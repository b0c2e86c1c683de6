"""vLLM's softmax router beside this project's own; its row is refused where it cannot run."""

import pytest
import torch

from moe.platforms import platform
from moe.platforms.detect import devices, platform_of
from moe.routers import ROUTERS
from moe.routers.softmax.member import SoftmaxTopK
from moe.routers.vllm_softmax.member import VllmSoftmaxTopK
from moe.spec import LayerSpec

ROW = ROUTERS.row("vllm_softmax")


def test_a_platform_without_cuda_is_refused():
    spec = LayerSpec(m=1, hidden=8, intermediate=8, num_experts=4, top_k=2)
    reason = ROW.needs.refusal(spec, platform("cpu"))
    assert (reason.code, reason.text) == (
        "platform_lacks_feature",
        "needs cuda, which cpu does not have",
    )


@pytest.mark.skipif(not ROW.needs.are_met_by(platform_of(devices())), reason="needs a GPU and vLLM")
@pytest.mark.parametrize("experts", [1, 7, 8, 64, 192, 512])
@pytest.mark.parametrize("tokens", [0, 1, 65])
def test_it_chooses_and_weighs_as_this_project_s_own(experts, tokens):
    logits = torch.randn(tokens, experts, device="cuda")
    for renormalize in (True, False):
        got = VllmSoftmaxTopK()(logits, min(experts, 6), renormalize=renormalize)
        wanted = SoftmaxTopK()(logits, min(experts, 6), renormalize=renormalize)
        assert torch.equal(got.topk_ids, wanted.topk_ids)
        assert torch.allclose(got.topk_weights, wanted.topk_weights, rtol=1e-5)


def test_its_row_states_what_becomes_of_nan():
    """The kernel sets such scores to 0, by its source; docs/found.md has it."""
    assert ROW.nan_as_zero


@pytest.mark.skipif(not ROW.needs.are_met_by(platform_of(devices())), reason="needs a GPU and vLLM")
@pytest.mark.parametrize("experts", [7, 8, 64, 192])
def test_a_token_with_nan_logits_gets_distinct_experts_with_weights_of_zero(experts):
    logits = torch.randn(5, experts, device="cuda")
    logits[2, 3] = float("nan")
    for renormalize in (True, False):
        got = VllmSoftmaxTopK()(logits, 4, renormalize=renormalize)
        assert len(set(got.topk_ids[2].tolist())) == 4
        assert got.topk_weights[2].tolist() == [0.0] * 4
        assert bool((got.topk_weights[[0, 1, 3, 4]] > 0).all())
