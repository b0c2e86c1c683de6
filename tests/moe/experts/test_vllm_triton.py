"""vLLM's Triton kernel with vLLM's own steps: formats, absent slots, sizes, recorded stages."""

import pytest
import torch

from moe import intermediates
from moe.experts.vllm_triton import VllmTritonExperts
from tests.moe.experts.vllm_cases import problem, run, where_it_runs
from tests.moe.kernels.kernel_cases import QUANTS, expected_output, relative_rms, same

pytestmark = where_it_runs("vllm_triton")
# Of SiLU(gate), which the truth does not round, and of the codes and the scale that this moves.
LIMITS = {"none": 6e-3} | dict.fromkeys(QUANTS[1:], 3e-2)


@pytest.mark.parametrize("quant_name", QUANTS)
@pytest.mark.parametrize("unused", [0.0, 0.5])
def test_slots_without_an_expert_on_this_rank_add_nothing(quant_name, unused):
    made = problem(quant_name, unused)
    got = run(VllmTritonExperts, *made)
    assert relative_rms(got, expected_output(*made)) < LIMITS[quant_name]
    nobody = (made[-1].topk_ids < 0).all(dim=1).cpu()
    assert same(got[nobody], torch.zeros_like(got[nobody]))


@pytest.mark.parametrize("m", [1, 7, 129])
def test_sizes_that_no_tile_divides(m):
    made = problem(m=m, hidden=72, intermediate=136, num_experts=5, top_k=3)
    assert relative_rms(run(VllmTritonExperts, *made), expected_output(*made)) < LIMITS["none"]


def test_no_tokens_give_no_rows():
    assert run(VllmTritonExperts, *problem(m=0)).shape == (0, 128)


@pytest.mark.parametrize("quant_name", QUANTS)
def test_the_stages_are_handed_out_by_flat_row(quant_name):
    made = problem(quant_name)
    with intermediates.recording() as kept:
        run(VllmTritonExperts, *made)
    shapes = {name: tuple(stage.value.shape) for name, stage in kept.items()}
    rows = made[-1].topk_ids.numel()
    assert (shapes["gemm1"], shapes["activation"]) == ((rows, 256), (rows, 128))
    assert (shapes["second"], shapes["weighted"]) == ((rows, 128), (rows, 128))
    assert ("second_scale" in shapes) == (quant_name != "none")
