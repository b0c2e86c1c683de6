"""Square roots of softplus, far from overflow on either side."""

import torch

from moe.routers.softplus_sqrt.member import SoftplusSqrtTopK
from moe.routers.softplus_sqrt.truth import SoftplusSqrtTruth

LOGITS = torch.tensor([[100.0, 0.0, -100.0], [1.0, 4.0, -2.0]])


def test_the_truth_is_right_at_known_values():
    scores = SoftplusSqrtTruth().scores(LOGITS)[0]
    wanted = torch.tensor([10.0, torch.log(torch.tensor(2.0)).sqrt()], dtype=torch.float64)
    torch.testing.assert_close(scores[:2], wanted, atol=1e-7, rtol=0)
    assert float(scores[2]) == torch.tensor(-50.0, dtype=torch.float64).exp()


def test_the_member_agrees():
    got = SoftplusSqrtTopK()(LOGITS, 2, renormalize=False)
    assert got.topk_ids.tolist() == [[0, 1], [1, 0]]
    wanted = SoftplusSqrtTruth().weights(LOGITS, got.topk_ids, renormalize=False)
    torch.testing.assert_close(got.topk_weights, wanted)
