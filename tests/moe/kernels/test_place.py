"""Which tokens go to which rank, against the twin."""

import pytest
import torch

from moe.errors import MoEError
from moe.kernels.place import place, place_torch
from moe.kernels.tiles import small_tiles

RANKS, EXPERTS = 3, 5


def holders_on(device):
    held = torch.zeros(RANKS, EXPERTS, dtype=torch.uint8)
    for e in range(EXPERTS):
        held[e % RANKS, e] = 1
    return held.to(device)


def ids_of(tokens, device, top_k=2):
    torch.manual_seed(tokens)
    return torch.randint(-1, EXPERTS + 1, (tokens, top_k), dtype=torch.int32).to(device)


@pytest.mark.parametrize("tokens", [0, 1, 300])
def test_place_and_its_twin_agree(tokens, kernel_device):
    ids, holders = ids_of(tokens, kernel_device), holders_on(kernel_device)
    for context in (None, small_tiles):
        if context is None:
            position, counts = place(ids, holders)
        else:
            with context():
                position, counts = place(ids, holders)
        wanted, number = place_torch(ids, holders)
        assert torch.equal(position, wanted)
        assert torch.equal(counts, number)
        assert position.dtype == counts.dtype == torch.int32


def test_a_token_with_two_experts_on_a_rank_goes_there_once(kernel_device):
    ids = torch.tensor([[0, 3], [-1, -1], [1, 0], [9, 4]], dtype=torch.int32, device=kernel_device)
    position, counts = place(ids, holders_on(kernel_device))
    assert position.tolist() == [[0, -1, 1, -1], [-1, -1, 0, 1], [-1, -1, -1, -1]]
    assert counts.tolist() == [2, 2, 0]


@pytest.mark.parametrize("do", [place, place_torch])
def test_what_does_not_fit_is_an_error(do, kernel_device):
    ids, holders = ids_of(4, kernel_device), holders_on(kernel_device)
    with pytest.raises(MoEError, match=r"holders is \[3, 5\] of torch.float32; it must be"):
        do(ids, holders.float())
    with pytest.raises(MoEError, match=r"topk_ids is \[8\]; it must be \[T, k\]"):
        do(ids.flatten(), holders)
