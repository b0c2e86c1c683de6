"""Terms of other rows and slots are named as they were drawn; noise and mixtures are not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.conditions import Fact
from harness.diagnosis.moved_shares import OWN, UNKNOWN, Summed, moved_shares
from harness.diagnosis.terms import Terms

ROWS, SLOTS, COLUMNS = 20, 3, 64
SOME = settings(max_examples=8, deadline=None)


def drawn(seed=0, missing=0.0):
    """Unweighted terms [R, P, C] and weights [R, P], with some terms missing."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(ROWS, SLOTS, COLUMNS, generator=draw)
    has = torch.rand(ROWS, SLOTS, generator=draw) >= missing
    weights = torch.rand(ROWS, SLOTS, generator=draw) + 0.2
    return values * has[:, :, None], weights, has


def said(terms, actual, weights=None, noun="shares", facts=()):
    expected = terms.sum(dim=1)
    actual = actual.bfloat16().float()
    tolerance = expected.norm(dim=1) * 2.0**-7
    summed = Summed(
        terms=Terms(
            noun=noun,
            actual=actual,
            expected=expected,
            tolerance=tolerance,
            is_wrong=~((actual - expected).norm(dim=1) <= tolerance),
            values=terms,
            facts=facts,
            stage="combine",
        ),
        rows=torch.arange(ROWS),
        weights=weights,
    )
    causes = [cause.cause.removeprefix("in stage combine ") for cause in moved_shares(summed)]
    return " OR ".join(causes) or None


@SOME
@given(st.integers(0, SLOTS - 1), st.integers(1, 9), st.booleans(), st.booleans())
def test_one_slot_of_a_row_further_on(slot, step, is_after, is_own):
    y, weights, _ = drawn(step)
    moved = y * weights[:, :, None]
    right = moved.clone()
    step = -step if is_after else step
    moved[:, slot] = y[:, slot].roll(step, 0) * weights[:, slot, None]
    if not is_own:
        moved[:, slot] = right[:, slot].roll(step, 0)
    gap = "" if abs(step) == 1 else f"{abs(step)} "
    place = f"the row {gap}{'after' if is_after else 'before'} it, in a circle"
    text = f"the share of slot {slot} is that of {place}{OWN if is_own else ''}"
    told = said(right, moved.sum(dim=1), weights)
    # The sum of the slots after, or before, each is the same.
    if (slot, step, is_own) in ((0, -1, False), (SLOTS - 1, 1, False)):
        told = told.partition(" OR ")[0]
    assert told == text


def test_a_row_that_all_take():
    y, _, _ = drawn()
    moved = y.clone()
    moved[:, :2] = y[5, :2]
    assert said(y, moved.sum(dim=1)) == "the shares of slots 0-1 are those of row 5"


def test_a_transposed_index():
    y, weights, _ = drawn()
    moved = y.flatten(0, 1).view(SLOTS, ROWS, COLUMNS).transpose(0, 1) * weights[:, :, None]
    text = "all shares are those of number slot * rows + row, not row * k + slot"
    assert said(y * weights[:, :, None], moved.sum(dim=1), weights) == text + OWN


def test_the_sums_of_a_rank_among_those_it_sent():
    y, _, has = drawn(missing=0.4)
    moved = y.clone()
    at = has[:, 1].nonzero().flatten()
    moved[at, 1] = y[at.roll(1), 1]
    ranks = Fact(one="rank", many="ranks", values=torch.arange(SLOTS).double().repeat(ROWS))
    text = "the sums of rank 1 are those of the row before it that has one there, in a circle"
    assert said(y, moved.sum(dim=1), noun="sums", facts=(ranks,)) == text
    ends = Fact(one="", many="", values=torch.ones(ROWS * SLOTS), names=("others", "first rows"))
    assert said(y, moved.sum(dim=1), noun="sums", facts=(ranks, ends)) == text


def test_rows_are_nan_where_the_term_was_never_computed():
    y, _, has = drawn(missing=0.3)
    moved = y.clone()
    source = (torch.arange(ROWS) - 1).clamp(min=0)
    moved[:, 2] = torch.where(has[source, 2, None], y[source, 2], torch.nan)
    moved[:, 2] = torch.where(has[:, 2, None], moved[:, 2], y[:, 2])
    total = moved.sum(dim=1)
    assert bool(total.isnan().any())
    text = said(y, total, torch.ones(ROWS, SLOTS))
    assert text == f"the share of slot 2 is that of the row before it{UNKNOWN}"


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_said_of_noise_mixtures_and_whole_rows(seed):
    y, weights, _ = drawn(seed)
    draw = torch.Generator().manual_seed(seed)
    right = y.sum(dim=1)
    assert said(y, right + 0.3 * torch.randn(right.shape, generator=draw), weights) is None
    moved = y.clone()
    moved[:, 1] = (y[:, 1].roll(1, 0) + y[:, 1]) / 2
    assert said(y, moved.sum(dim=1), weights) is None
    assert said(y, right.roll(1, 0), weights) is None
