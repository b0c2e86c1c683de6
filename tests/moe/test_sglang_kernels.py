"""SGLang's kernels run as they stand in its files, with this project's order of rows."""

import torch

from moe.experts.fused_moe_rows import SGLANG_KERNEL
from moe.kernels.launch import launching_released
from tests.moe.released_subjects import needs


@needs(SGLANG_KERNEL)
def test_slots_of_other_ranks_come_first():
    from moe.sglang_kernels import assignment

    ids = torch.tensor([[-1, 1], [0, -1]], dtype=torch.int32)
    rows, experts, count = assignment(ids, 2, 2)
    used = rows.tolist()[: count.item()]
    assert (used, experts.tolist()[:3]) == ([0, 3, 2, 4, 1, 4], [-1, 0, 1])


@needs(SGLANG_KERNEL)
def test_slots_are_summed_in_float32(kernel_device):
    from moe.sglang_kernels import sum_of_slots

    y = torch.randn(5, 3, 40, device=kernel_device).bfloat16()
    out = torch.empty(5, 40, dtype=torch.bfloat16, device=kernel_device)
    with launching_released(y.device):
        sum_of_slots(y, out, 1.0)
    assert torch.equal(out, y.float().sum(1).bfloat16())


@needs(SGLANG_KERNEL)
def test_the_default_tile():
    from moe.sglang_kernels import default_config

    assert default_config(4, 8, 256, 256, 2, None, False)["BLOCK_SIZE_M"] == 16
    blocked = default_config(4, 8, 256, 256, 2, "fp8_w8a8", False, [128, 128])
    assert (blocked["BLOCK_SIZE_N"], blocked["BLOCK_SIZE_K"]) == (128, 128)
