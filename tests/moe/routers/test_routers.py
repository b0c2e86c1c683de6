"""Each router's member against its twin in the reference, and what its row says of it."""

import pytest
import torch

from harness.fixtures import tensors
from harness.matrix.case import MoETestConfig
from moe.platforms.detect import devices, platform_of
from moe.reference import routing
from moe.routers import ROUTERS
from moe.spec import resolve

LOGITS = torch.tensor([[0.5, 2.0, -1.0, 1.0], [0.0, 0.5, 3.0, -2.0]])


def rounds_scores(dtype, _renormalize):
    return dtype != torch.float32


# Where released functions are known to deviate, see docs/found.md.
DEVIATES = {
    "vllm_grouped_softmax": rounds_scores,
    "vllm_grouped_sigmoid": rounds_scores,
    "vllm_cpu_softmax": rounds_scores,
    "megablocks_softmax": rounds_scores,
    "sglang_raw_logits": lambda _dtype, renormalize: not renormalize,
}


def row_id(row):
    return row.name


@pytest.mark.parametrize("row", list(ROUTERS), ids=row_id)
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_member_s_choice_is_right(row, renormalize, dtype):
    machine = platform_of(devices())
    if not row.needs.are_met_by(machine):
        pytest.skip(f"{row.name} does not run on {machine.name}")
    if row.name in DEVIATES and DEVIATES[row.name](dtype, renormalize):
        pytest.skip(f"docs/found.md: {row.name} deviates from its scores' truth here")
    logits = torch.randn(64, 16, device=machine.device).to(dtype)
    got = resolve(row.target)()(logits, 4, renormalize=renormalize)
    asked = {"renormalize": renormalize, "router": row.name}
    assert got.topk_ids.dtype == torch.int32
    assert routing.routing_errors(logits, got.topk_ids, got.topk_weights, **asked) == []
    asked["renormalize"] = not renormalize
    errors = routing.routing_errors(logits, got.topk_ids, got.topk_weights, **asked)
    if row.always_renormalizes:
        assert errors == []
    else:
        assert "64 of 64 tokens have wrong weights" in errors[0]


@pytest.mark.parametrize("row", list(ROUTERS), ids=row_id)
def test_a_worse_expert_is_no_valid_choice(row):
    truth = resolve(row.truth)()
    chosen = torch.tensor([[False, True, False, True], [True, False, True, False]])
    assert truth.is_valid(LOGITS.double(), chosen, 2.0**-20).tolist() == [True, False]
    assert truth.choose(LOGITS, 2).tolist() == [[1, 3], [2, 1]]


@pytest.mark.parametrize("row", list(ROUTERS), ids=row_id)
def test_weights_of_all_experts_sum_to_one_where_the_row_says_so(row):
    ids = torch.arange(4).expand(2, 4)
    weights = resolve(row.truth)().weights(LOGITS, ids, renormalize=False)
    sums = weights.sum(dim=1)
    assert torch.allclose(sums, torch.ones(2)) == row.sums_to_one


@pytest.mark.parametrize("row", list(ROUTERS), ids=row_id)
def test_the_inputs_keep_the_gap_that_a_router_needs(row):
    case = MoETestConfig(
        m=32, n=64, k=64, num_experts=8, top_k=2, experts="torch_loop", router=row.name
    )
    logits = tensors.tokens(case, 0, 32, torch.device("cpu")).logits.float()
    ordered = logits.sort(dim=1, descending=True).values
    assert float((ordered[:, 1] - ordered[:, 2]).min()) >= resolve(row.truth)().gap
