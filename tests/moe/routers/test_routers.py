"""Each router's member against its twin in the reference, and what its row says of it."""

import pytest
import torch

from harness.fixtures import tensors
from harness.matrix.case import MoETestConfig
from moe.platforms.detect import devices, platform_of
from moe.reference import routing
from moe.routers import ROUTERS
from moe.spec import RoutingMethod, resolve
from moe.types import TORCH_DTYPE

LOGITS = torch.tensor([[0.5, 2.0, -1.0, 1.0], [0.0, 0.5, 3.0, -2.0]])


# Where released functions are known to deviate, see docs/found.md.
DEVIATES = {
    "sglang_raw_logits": lambda _dtype, renormalize: not renormalize,
}


def row_id(row):
    return row.name


@pytest.mark.parametrize("row", list(ROUTERS), ids=row_id)
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "f32"])
def test_a_member_s_choice_is_right(row, renormalize, dtype):
    machine = platform_of(devices())
    if not row.needs.are_met_by(machine):
        pytest.skip(f"{row.name} does not run on {machine.name}")
    if row.name in DEVIATES and DEVIATES[row.name](dtype, renormalize):
        pytest.skip(f"docs/found.md: {row.name} deviates from its scores' truth here")
    logits = torch.randn(64, 16, device=machine.device).to(TORCH_DTYPE[dtype])
    got = resolve(row.target)()(logits, 4, renormalize=renormalize)
    assert got.topk_ids.dtype == torch.int32
    assert errors_of(row, renormalize, dtype, logits, got) == []
    errors = errors_of(row, not renormalize, dtype, logits, got)
    if row.always_renormalizes:
        assert errors == []
    else:
        assert "64 of 64 tokens have wrong weights" in errors[0]


def errors_of(row, renormalize, dtype, logits, got):
    """What is wrong by the roundings that the row states, or by each that is customary."""
    method = RoutingMethod(router=row.name, top_k=4, renormalize=renormalize)
    tried = [
        routing.RoutingTruth(method=method, numerics=numerics)
        for numerics in row.roundings(method, dtype)
    ]
    return min((truth.errors(logits, got.topk_ids, got.topk_weights) for truth in tried), key=len)


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
