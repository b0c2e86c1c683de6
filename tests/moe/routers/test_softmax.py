"""The softmax router by a row whose weights are known."""

import pytest
import torch

from moe.routers.softmax.member import SoftmaxTopK


@pytest.mark.parametrize("renormalize", [True, False])
def test_the_router_chooses_the_largest_and_weighs_them(renormalize):
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))
    got = SoftmaxTopK()(logits, 2, renormalize=renormalize)
    assert got.topk_ids.tolist() == [[1, 3]]
    assert got.topk_ids.dtype == torch.int32
    wanted = torch.tensor([[0.4, 0.3]]) / (0.7 if renormalize else 1.0)
    assert torch.allclose(got.topk_weights, wanted)
