"""The sigmoid router's twin: scores of single logits, and ties among large ones."""

import torch

from moe.routers import ROUTERS
from moe.spec import resolve

LOGITS = torch.tensor([[0.5, 2.0, -1.0, 1.0], [0.0, 0.5, 3.0, -2.0]])


def test_sigmoid_is_of_each_logit_alone():
    truth = resolve(ROUTERS.row("sigmoid").truth)()
    weights = truth.weights(LOGITS, torch.tensor([[1], [2]]), renormalize=False)
    assert torch.allclose(weights, torch.tensor([[0.8807971], [0.9525741]]))


def test_scores_that_are_one_in_float32_are_a_tie():
    truth = resolve(ROUTERS.row("sigmoid").truth)()
    logits = torch.tensor([[40.0, 60.0]])
    assert truth.is_valid(logits.double(), torch.tensor([[True, False]]), 2.0**-20).tolist() == [
        True
    ]
