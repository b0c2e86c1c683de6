"""Which token and which slot the rows of blocks are, of what low-latency kernels tell."""

import torch

from moe.all2all.low_latency import slots_of, tokens_of_blocks


def test_tokens_and_slots_are_found_whatever_the_order_of_the_senders():
    ranges = torch.tensor([[(1 << 32) | 2, 0 | 1]])  # the row of rank 1 comes first
    tokens = tokens_of_blocks(torch.tensor([[6, 0, 3, 99]]), ranges, (4, 7))
    assert tokens.tolist() == [[10, 0, 3, -1]]
    everyone = torch.zeros((11, 2), dtype=torch.int32)
    everyone[[10, 3], 1] = 5
    everyone[0, 0] = 5
    assert slots_of(tokens, torch.tensor([5]), everyone).tolist() == [[1, 0, 1, -1]]


def test_no_token_at_all_leaves_every_row_unused():
    tokens = tokens_of_blocks(
        torch.tensor([[4, 4]]), torch.zeros((1, 2), dtype=torch.int64), (0, 0)
    )
    assert tokens.tolist() == [[-1, -1]]
    nobody = torch.zeros((0, 2), dtype=torch.int32)
    assert slots_of(tokens, torch.tensor([5]), nobody).tolist() == [[-1, -1]]
