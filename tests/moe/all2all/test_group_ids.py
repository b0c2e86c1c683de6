"""Experts of a group are numbered rank by rank, there and back."""

import pytest
import torch

from moe.all2all.group_ids import GroupIds
from moe.errors import MoEError

CPU = torch.device("cpu")


def test_numbers_go_there_and_back_for_unlike_ranks():
    ids = GroupIds.of(((3, 0), (4,), ()), 6, CPU)  # 1, 2 and 5 are on no rank of the group
    assert (ids.per_rank, ids.total) == (2, 6)
    topk = torch.tensor([[0, 4, -1], [5, 3, 6]], dtype=torch.int32)
    numbers = ids.numbers(topk)
    assert numbers.tolist() == [[1, 2, -1], [-1, 0, -1]]
    assert numbers.dtype == torch.int64
    places = torch.where(numbers // 2 == 0, numbers % 2, -1)
    assert ids.experts(places, 0).tolist() == [[0, -1, -1], [-1, 3, -1]]
    assert ids.experts(torch.tensor([[0, 1]]), 1).tolist() == [[4, -1]]


def test_slots_without_an_expert_add_no_rank():
    ids = GroupIds.of(((0, 1), (2, 3)), 4, CPU)
    numbers = torch.tensor([[3, -1, 2], [-1, -1, -1]])
    assert ids.filled(numbers, 1).tolist() == [[3, 3, 2], [2, 2, 2]]


def test_an_expert_on_two_ranks_is_an_error():
    with pytest.raises(MoEError, match=r"expert 1 is on the ranks 0 and 1 of the group.*spread"):
        GroupIds.of(((0, 1), (1,)), 2, CPU)
