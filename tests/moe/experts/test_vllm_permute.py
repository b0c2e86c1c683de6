"""vLLM's permutation around torch's grouped product: absent slots, no rows, recorded stages."""

import pytest
import torch

from moe import intermediates
from moe.experts.vllm_permute import VllmPermuteExperts
from tests.moe.experts.vllm_cases import problem, run, where_it_runs
from tests.moe.kernels.kernel_cases import expected_output, relative_rms, same

pytestmark = where_it_runs("vllm_permute")


@pytest.mark.parametrize("unused", [0.0, 0.5])
@pytest.mark.parametrize("m", [1, 7, 129])
def test_slots_without_an_expert_on_this_rank_add_nothing(m, unused):
    made = problem("none", unused, m=m, hidden=72, intermediate=136, num_experts=5, top_k=3)
    got = run(VllmPermuteExperts, *made)
    nobody = (made[-1].topk_ids < 0).all(dim=1).cpu()
    assert same(got[nobody], torch.zeros_like(got[nobody]))
    if not nobody.all():
        assert relative_rms(got, expected_output(*made)) < 6e-3  # of rounding SiLU(gate)


def test_no_tokens_give_no_rows():
    assert run(VllmPermuteExperts, *problem(m=0)).shape == (0, 128)


def test_the_stages_name_their_flat_rows():
    made = problem("none", 0.5)
    with intermediates.recording() as kept:
        run(VllmPermuteExperts, *made)
    rows = torch.arange(made[-1].topk_ids.numel())
    for name in ("gemm1", "activation", "gemm2"):
        assert torch.equal(kept[name].rows.sort().values.cpu(), rows)
