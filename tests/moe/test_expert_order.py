"""Rows by expert, and their weighted sum."""

import torch

from moe.expert_order import by_expert, weighted_sum
from moe.types import Routing


def test_rows_are_sorted_by_expert_and_unused_ones_belong_to_none():
    ids = torch.tensor([[2, -1], [0, 2], [-1, 0]], dtype=torch.int32)
    order, ends = by_expert(ids, 4)
    assert order.tolist() == [2, 5, 0, 3, 1, 4]
    assert ends.tolist() == [2, 2, 4, 4]
    assert ends.dtype == torch.int32


def test_rows_without_an_expert_are_not_read():
    y = torch.tensor([[[1.0, 2.0], [torch.nan, torch.inf]], [[4.0, 8.0], [1.0, 1.0]]])
    ids = torch.tensor([[0, -1], [1, 0]], dtype=torch.int32)
    routing = Routing(topk_ids=ids, topk_weights=torch.tensor([[0.5, 9.0], [0.25, 1.0]]))
    assert weighted_sum(y, routing).tolist() == [[0.5, 1.0], [2.0, 3.0]]
