"""vLLM's kernel runs as it stands in its files, with this project's order of rows around it."""

import torch

from moe.experts.fused_moe_rows import VLLM_KERNEL
from tests.moe.released_subjects import needs

CONFIG = {"BLOCK_SIZE_M": 4}


@needs(VLLM_KERNEL)
def test_few_slots_for_many_experts_are_not_sorted():
    from moe.vllm_kernels import assignment

    ids = torch.tensor([[5, 2]], dtype=torch.int32)
    rows, experts, count = assignment(ids, CONFIG, 8)
    assert (rows, experts.tolist(), count.tolist()) == (None, [5, 2], [8])
    rows, experts, count = assignment(ids, CONFIG, 7)
    assert (rows.tolist()[:8], count.tolist()) == ([1, 2, 2, 2, 0, 2, 2, 2], [8])
    assert experts.tolist()[:2] == [2, 5]


@needs(VLLM_KERNEL)
def test_slots_of_other_ranks_are_left_out():
    from moe.vllm_kernels import assignment

    ids = torch.tensor([[-1, 1]], dtype=torch.int32)
    rows, experts, count = assignment(ids, CONFIG, 64)
    assert (rows.tolist()[:4], experts.tolist()[:1], count.tolist()) == ([1, 2, 2, 2], [1], [4])


@needs(VLLM_KERNEL)
def test_the_default_tile_is_that_of_a_hopper_where_no_gpu_is():
    from moe.vllm_kernels import default_config

    config = default_config(4, 8, 256, 256, 2, "fp8_w8a8", [128, 128])
    assert (config["BLOCK_SIZE_M"], config["BLOCK_SIZE_N"], config["num_stages"]) == (16, 64, 4)
