"""Which of the chosen experts live on a rank."""

import torch

from moe.routing import to_local_ids


def test_global_ids_become_local_ones_or_minus_one():
    ids = torch.tensor([[0, 3], [4, 5], [-1, 6]], dtype=torch.int32)
    shuffled = torch.tensor([-1, -1, -1, 0, 2, 1], dtype=torch.int32)
    assert to_local_ids(ids, shuffled).tolist() == [[-1, 0], [2, 1], [-1, -1]]
    assert to_local_ids(ids, torch.full_like(shuffled, -1)).tolist() == [[-1, -1]] * 3
    assert to_local_ids(ids, shuffled).dtype == torch.int32
