"""Partial sums put back by address, and their sum, against the twins."""

import pytest
import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels.put_back import WayBack, add_parts, add_parts_torch, put_back, put_back_torch
from tests.moe.kernels.kernel_cases import same


def way_to(buffers, came, returns, limits, device):
    numbers = (torch.tensor(values, device=device) for values in (came, returns, limits))
    return WayBack(
        addresses=torch.tensor([b.data_ptr() for b in buffers], device=device),
        **dict(zip(("came", "returns", "limits"), numbers, strict=True)),
        longest=max(limits),
    )


@pytest.mark.parametrize(("width", "dtype"), [(96, torch.int64), (1030, torch.int16)])
def test_rows_go_back_to_their_ranks(width, dtype, kernel_device):
    words = torch.arange(9 * width, device=kernel_device).view(9, width).to(dtype)
    tokens = torch.tensor([4, 5, -1, 0, 1, 2, 3, -1, 8], dtype=torch.int32, device=kernel_device)
    got, wanted = (
        [torch.full((7, width), 77, dtype=dtype, device=kernel_device) for _ in range(3)]
        for _ in range(2)
    )
    places = [0, 3, 3], [2, 0, 1], [3, 0, 6]
    put_back(words, tokens, way_to(got, *places, kernel_device))
    put_back_torch(words, tokens, way_to(wanted, *places, kernel_device), wanted)
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("tokens", "hidden"), [(33, 256), (5, 1100), (0, 8)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sums_and_their_twin_agree(tokens, hidden, dtype, kernel_device):
    torch.manual_seed(0)
    goes = torch.rand(3, tokens) < 0.6
    position = torch.where(goes, goes.int().cumsum(1) - 1, -1).int().to(kernel_device)
    starts = torch.tensor([0, tokens, 2 * tokens], device=kernel_device)
    parts = torch.full((3 * tokens, hidden), float("nan"), device=kernel_device)
    for rank, numbers in enumerate(position):
        count = int((numbers >= 0).sum())
        parts[rank * tokens : rank * tokens + count] = torch.randn(count, hidden).to(kernel_device)
    parts = parts.to(dtype)
    with guarded_buffers.poisoned():
        got = add_parts(parts, position, starts)
        assert guarded_buffers.broken_guards() == []
    assert same(got, add_parts_torch(parts, position, starts))


def test_the_sum_is_rounded_once_in_rank_order(kernel_device):
    """1 + 2^-8 + 2^-8: rounding each partial sum to bf16 would give 1."""
    parts = torch.tensor([[1.0], [2.0**-8], [2.0**-8]], device=kernel_device).bfloat16()
    position = torch.zeros(3, 1, dtype=torch.int32, device=kernel_device)
    starts = torch.arange(3, device=kernel_device)
    assert add_parts(parts, position, starts).tolist() == [[1.0 + 2.0**-7]]


def test_what_does_not_fit_is_an_error(kernel_device):
    words = torch.zeros(4, 8, dtype=torch.int64, device=kernel_device)
    tokens = torch.zeros(4, dtype=torch.int32, device=kernel_device)
    way = way_to([words], [0], [0], [4], kernel_device)
    with pytest.raises(MoEError, match=r"words is \[4, 8\] and tokens \[3\]; they must be"):
        put_back(words, tokens[:3], way)
    uneven = way_to([words, words], [0], [0], [4], kernel_device)
    with pytest.raises(MoEError, match=r"have lengths \[1, 2\], not \[S\]"):
        put_back(words, tokens, uneven)
    with pytest.raises(MoEError, match="starts has 2 entries, and position 1 ranks"):
        add_parts(words.float(), tokens[None], torch.zeros(2, device=kernel_device))
