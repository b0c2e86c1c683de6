"""Router weights of other tokens and slots are named; nothing is said of weights of nobody."""

from __future__ import annotations

import torch

from harness.checks.stage_bound import OfAllRanks
from harness.diagnosis.moved_weights import moved_weights
from harness.diagnosis.stage_errors import StageErrors

TOKENS, K = 6, 2
WEIGHTS = torch.rand(TOKENS, K, generator=torch.Generator().manual_seed(0))
OF_ALL = OfAllRanks(
    value=WEIGHTS,
    ranks=torch.tensor([0, 0, 0, 0, 1, 1]),
    rows=torch.tensor([0, 1, 2, 3, 0, 1]),
    tokens=torch.arange(TOKENS),
)
OWN = torch.arange(TOKENS)
HELD = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 0], [1, 1], [0, 1]]).bool()  # by this rank


def said(actual):
    expected = torch.where(HELD, WEIGHTS, 0.0)
    errors = StageErrors(
        stage="dispatch",
        noun="router weights",
        actual=torch.where(HELD, actual, 0.0),
        expected=expected,
        tolerance=torch.full_like(expected, 1e-30),
        numbers=OWN,
        facts=(),
    )
    cause = moved_weights(errors, OF_ALL, OWN)
    return None if cause is None else cause.cause.partition(" router weights are those of ")[2]


def test_other_tokens_and_slots():
    assert said(WEIGHTS.roll(2, 0)).startswith(
        "other slots: slot 0 of token 0 has that of slot 0 of"
    )
    late = torch.cat([WEIGHTS[:2], WEIGHTS[:4]])
    assert said(late) == "the token 2 before each"
    assert said(WEIGHTS.flip(1)).startswith("other slots")
    assert said(WEIGHTS[:, :1].expand_as(WEIGHTS)) == "the slot before each"
    assert said(WEIGHTS[3:4].expand_as(WEIGHTS)) == "token 3 of all ranks"


def test_nothing_is_said_of_right_weights_of_one_and_of_weights_of_nobody():
    assert said(WEIGHTS) is None
    assert said(WEIGHTS * 1.5) is None
    one = WEIGHTS.clone()
    one[1, 0] = WEIGHTS[4, 1]
    assert said(one) is None
    assert said(torch.zeros_like(WEIGHTS)) is None
