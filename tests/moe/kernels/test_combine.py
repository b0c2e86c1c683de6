"""The weighted sum against its twin."""

import pytest
import torch

from moe import guarded_buffers
from moe.kernels.combine import combine, combine_torch
from tests.moe.kernels.kernel_cases import same


@pytest.mark.parametrize(("tokens", "top_k", "hidden"), [(33, 2, 256), (5, 6, 1100), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernel_and_twin_agree(tokens, top_k, hidden, dtype, kernel_device):
    torch.manual_seed(0)
    y = torch.randn(tokens * top_k, hidden, device=kernel_device).to(dtype)
    weights = torch.rand(tokens, top_k, device=kernel_device)
    ids = torch.randint(-1, 4, (tokens, top_k), dtype=torch.int32, device=kernel_device)
    y[ids.view(-1) < 0] = float("nan")
    weights[ids < 0] = float("nan")
    with guarded_buffers.poisoned():
        got = combine(y, weights, ids)
        assert guarded_buffers.broken_guards() == []
    wanted = combine_torch(y, weights, ids)
    if kernel_device.type == "cpu":
        assert same(got, wanted)
    # Compiled, a product and its sum are rounded together.
    assert bool(((got - wanted).abs() <= 2.0**-7 * wanted.abs() + 2.0**-20).all())


@pytest.mark.parametrize("do", [combine, combine_torch])
def test_a_token_without_experts_is_zero(do, kernel_device):
    y = torch.full((4, 8), float("nan"), device=kernel_device).bfloat16()
    y[3] = 2.0
    ids = torch.tensor([[-1, -1], [-1, 0]], dtype=torch.int32, device=kernel_device)
    got = do(y, torch.tensor([[1.0, 1.0], [1.0, 0.5]], device=kernel_device), ids)
    assert got.tolist() == [[0.0] * 8, [1.0] * 8]


@pytest.mark.parametrize("do", [combine, combine_torch])
def test_the_sum_is_rounded_once(do, kernel_device):
    """1 + 2^-9 + 2^-9: rounding each partial sum to bf16 would give 1."""
    y = torch.ones(3, 8, device=kernel_device).bfloat16()
    weights = torch.tensor([[1.0, 2.0**-8, 2.0**-8]], device=kernel_device)
    ids = torch.zeros(1, 3, dtype=torch.int32, device=kernel_device)
    assert do(y, weights, ids).tolist() == [[1.0 + 2.0**-7] * 8]


@pytest.mark.parametrize("do", [combine, combine_torch])
def test_no_tokens(do, kernel_device):
    y = torch.empty(0, 8, device=kernel_device)
    ids = torch.empty(0, 2, dtype=torch.int32, device=kernel_device)
    out = do(y, torch.empty(0, 2, device=kernel_device), ids, torch.bfloat16)
    assert out.shape == (0, 8)
    assert out.dtype == torch.bfloat16
