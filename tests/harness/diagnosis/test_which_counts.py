"""How often tokens came is told by their experts here, their sender and their place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.which_counts import facts_of_tokens, which_counts

SIZES, RANKS = (9, 7, 8), (0, 2, 4)
ROWS = torch.arange(sum(SIZES))
HERE = torch.tensor([1, 2, 1, 1, 2, 1, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 2, 1, 1, 1, 2, 1, 2, 1])
FIRST, LAST = [0, 9, 16], [8, 15, 23]


def said(times, here=HERE):
    return which_counts(times, here, facts_of_tokens(ROWS, SIZES, RANKS))


def times_of(changes):
    times = torch.ones(len(ROWS), dtype=torch.int64)
    for rows, count in changes.items():
        times[list(rows)] = count
    return times


def test_once_for_each_expert():
    text = "each token came as often as it has experts on this rank, not once"
    assert said(HERE) == text
    assert said(HERE, HERE.clamp(max=1) * 1 + (ROWS == 3)) != text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({tuple(LAST): 0}, "the last token of each rank never came"),
        ({tuple(FIRST): 2}, "the first token of each rank came twice"),
        (
            {tuple(FIRST): 3, tuple(LAST): 0},
            "the last token of each rank never came, and the first token of each rank came three "
            "times",
        ),
        ({tuple(range(9, 16)): 0}, "the tokens of rank 2 never came"),
    ],
)
def test_rules(changes, text):
    assert said(times_of(changes)) == text


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_of_random_counts_nothing_is_said(seed):
    draw = torch.Generator().manual_seed(seed)
    assert said((torch.rand(len(ROWS), generator=draw) < 0.5).long() * 2) is None
