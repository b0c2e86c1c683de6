"""An amount that all rows of an expert share is said, and whose bias it is."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.which_addend import which_addend
from tests.harness.diagnosis.drawn_errors import COLUMNS, EXPERTS, ROWS, holding, right

RANKS = "rank's expert"
HEAD = "in stage gemm1 each column is off by one amount in all rows of an expert: "


def said(amount, seed, biases=None):
    """The statement if this is added to the rows of each expert, [E, C]."""
    errors = right(seed)
    cause = which_addend(holding(errors, errors.expected + amount.repeat_interleave(8, 0)), biases)
    return None if cause is None else cause.cause


def drawn(seed):
    """A bias for each expert, [E, C]."""
    return torch.randn(EXPERTS, COLUMNS, generator=torch.Generator().manual_seed(seed + 77))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_whose_bias_it_is(seed):
    bias = drawn(seed)
    biases = dict(enumerate(bias))
    assert said(-bias, seed, biases) == f"{HEAD}the bias is left out"
    assert said(bias, seed, biases) == f"{HEAD}the bias is added twice"
    assert (
        said(bias[:1] - bias, seed, biases)
        == f"{HEAD}the bias of expert 0 is added for all experts"
    )
    text = "the bias is that of the {} after, in a circle"
    same = f"{text.format('expert')} (the same: {text.format(RANKS)})"
    assert said(bias.roll(-1, 0) - bias, seed, biases) == f"{HEAD}{same}"
    assert said(drawn(seed + 1), seed).startswith(f"{HEAD}up to ")
    assert said(drawn(seed + 1), seed, biases).startswith(f"{HEAD}up to ")


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_of_noise_nothing_is_said(seed):
    errors = right(seed)
    noise = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed + 55))
    assert which_addend(holding(errors, errors.expected + noise)) is None


def test_two_biases_that_give_the_same_are_both_named():
    """Of two experts, the first one's for both is that of the one before each."""
    errors = right(3)
    few = errors.of_rows(torch.arange(16))
    biases = dict(enumerate(drawn(3)[:2]))
    change = (biases[0] - torch.stack([biases[0], biases[1]])).repeat_interleave(8, 0)
    cause = which_addend(holding(few, few.expected + change), biases)
    text = "the bias is that of the expert before (the same: the bias is that of the rank's expert"
    assert cause.cause.removeprefix(HEAD).startswith(text)


def test_of_an_expert_with_one_wrong_row_nothing_is_said():
    """Any other row is off by one amount in each column, in all rows that there are of it."""
    errors = right(5)
    one = errors.of_rows(torch.arange(ROWS - 7))  # eight rows each of two experts, one of the third
    other = one.expected.clone()
    other[-1] = torch.randn(COLUMNS, generator=torch.Generator().manual_seed(6))
    assert which_addend(holding(one, other)) is None
    shifted = one.expected.clone()
    shifted[:8] += other[-1]
    assert which_addend(holding(one, shifted)) is not None
