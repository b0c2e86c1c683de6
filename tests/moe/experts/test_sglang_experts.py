"""SGLang's experts in torch, where SGLang is installed: what they take, and where they round."""

import pytest
import torch

from harness.execute import run_case
from harness.record.result import Verdict
from moe.experts import EXPERTS
from moe.platforms import platform
from moe.released import SGLANG_EXPERTS, holds_all_experts
from moe.spec import LayerSpec
from moe.types import Activations, ExpertWeights, Routing
from tests.harness.execute_ranks import case, context
from tests.moe.released_subjects import needs

pytestmark = pytest.mark.usefixtures("one_thread")
ALONE = {"all2all": "local", "n": 64, "k": 96, "num_experts": 4, "m": 16}


def test_ranks_that_lack_experts_are_refused():
    spread = case(n=64, k=64, experts="sglang_loop", dp_size=2, use_ep=True)
    reason = holds_all_experts(spread.layer_spec, platform("cpu"))
    rule = "knows no id of other ranks' experts, so that each rank must hold all of them"
    assert (reason.code, reason.text) == ("layout_unsupported", rule)
    assert holds_all_experts(spread.replace(use_ep=False).layer_spec, platform("cpu")) is None


@needs(SGLANG_EXPERTS)
@pytest.mark.parametrize("experts", ["sglang_loop", "sglang_gathered"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_it_passes_with_its_stated_roundings(experts, dtype):
    point = case(**ALONE, experts=experts, dtype=dtype, top_k=3)
    assert run_case(point, context()).verdict is Verdict.PASSED


@needs(SGLANG_EXPERTS)
@pytest.mark.parametrize("experts", ["sglang_loop", "sglang_gathered"])
def test_padding_rows_of_a_gathered_call_change_nothing(experts):
    """Ranks with fewer tokens send rows of -1, which SGLang's functions do not know."""
    x, ids = torch.randn(3, 8), torch.tensor([[3, 0], [1, 2], [-1, -1]], dtype=torch.int32)
    layer_spec = LayerSpec(m=3, hidden=8, intermediate=6, num_experts=4, top_k=2, dtype="f32")
    member = EXPERTS.load(experts)(layer_spec, 0, EXPERTS.row(experts).numerics, None)
    weights = ExpertWeights(w13=torch.randn(4, 12, 8), w2=torch.randn(4, 8, 6))
    member.prepare_weights(weights)
    routing = Routing(topk_ids=ids, topk_weights=torch.rand(3, 2))
    whole = member.apply(Activations(codes=x), routing)
    first = Routing(topk_ids=ids[:2], topk_weights=routing.topk_weights[:2])
    torch.testing.assert_close(whole[:2], member.apply(Activations(codes=x[:2]), first))
    assert whole[2].tolist() == [0.0] * 8


@needs(SGLANG_EXPERTS)
def test_a_call_without_tokens_raises_in_the_loop():
    """docs/found.md says this of version 0.5.23: once it fails, mend that page."""
    result = run_case(case(**ALONE, experts="sglang_gathered", tokens="none"), context())
    assert result.verdict is Verdict.PASSED
    with pytest.raises(RuntimeError, match="cannot reshape tensor of 0 elements"):
        run_case(case(**ALONE, experts="sglang_loop", tokens="none"), context())
