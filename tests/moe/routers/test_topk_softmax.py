"""The softmax over the chosen logits sums to one, whatever is asked."""

import pytest
import torch

from moe.routers.topk_softmax.member import TopKSoftmax
from moe.routers.topk_softmax.truth import TopKSoftmaxTruth

LOGITS = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()


@pytest.mark.parametrize("renormalize", [True, False])
def test_the_chosen_logits_alone_make_the_weights(renormalize):
    got = TopKSoftmax()(LOGITS, 2, renormalize=renormalize)
    wanted = torch.tensor([[0.4, 0.3]]) / 0.7
    assert got.topk_ids.tolist() == [[0, 1]]
    torch.testing.assert_close(got.topk_weights, wanted)
    truth = TopKSoftmaxTruth().weights(LOGITS, got.topk_ids, renormalize=renormalize)
    torch.testing.assert_close(truth, wanted)


def test_the_factor_comes_last():
    got = TopKSoftmax()(LOGITS, 2, renormalize=True, scale=2.5)
    torch.testing.assert_close(got.topk_weights.sum(), torch.tensor(2.5))
