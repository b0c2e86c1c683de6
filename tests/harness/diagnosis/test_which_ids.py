"""The rule that gives wrong ids is named if it holds for all ids; of random ones nothing is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.which_ids import by_row, shifted, which_ids

IDS = torch.randint(-1, 8, (24, 2), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize(
    ("actual", "text"),
    [
        (torch.where(IDS == 5, 2, IDS), "always 2 is in the place of 5"),
        (IDS.clamp(max=5), "always 5 is in the place of 6, 5 is in the place of 7"),
        (torch.where(IDS >= 0, IDS + 1, IDS), "all ids are 1 too high"),
        (torch.where(IDS >= 4, IDS - 4, IDS), "all ids are 4 too low"),
        (torch.where(IDS >= 6, -1, IDS), "ids 6, 7 are lost: -1 is in their place"),
        (torch.where(IDS < 0, 0, IDS), "slots without an id (-1) have id 0"),
    ],
)
def test_rules(actual, text):
    assert which_ids(actual, IDS) == text


@pytest.mark.parametrize(
    ("by", "text"),
    [
        (2, "each row has the ids of the row before it"),
        (-4, "each row has the ids of the row 2 after it"),
        (3, "each id is that of the slot 3 before it, over all rows"),
    ],
)
def test_ids_that_are_read_from_another_place(by, text):
    moved = IDS.flatten().roll(by)
    moved[slice(0, by) if by > 0 else slice(by, None)] = 77  # whatever lies there
    assert shifted(moved.view(IDS.shape), IDS) == text


def test_ids_that_are_not_read_from_another_place():
    assert shifted(IDS, IDS) is None
    draw = torch.Generator().manual_seed(2)
    assert shifted(torch.randint(-1, 8, IDS.shape, generator=draw).float(), IDS) is None
    alike = torch.ones_like(IDS)
    alike[3, 1] = 2
    assert shifted(alike.flatten().roll(1).view(IDS.shape), alike) is None  # one id tells nothing


def test_some_rows_only():
    lost = IDS.clone()
    lost[:4] = -1
    assert which_ids(lost, IDS) == "some ids are lost: -1 is in their place"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_of_random_ids_nothing_is_said(seed):
    generator = torch.Generator().manual_seed(seed)
    assert which_ids(torch.randint(-1, 8, IDS.shape, generator=generator).float(), IDS) is None


def test_of_right_ids_and_of_one_wrong_one_nothing_is_said():
    one = IDS.clone()
    one[3, 1] = 99
    assert which_ids(IDS, IDS) is None
    assert which_ids(one, IDS) is None


def test_an_id_that_is_wrong_only_sometimes_follows_no_rule():
    sometimes = IDS.clone()
    sometimes[:12] = torch.where(IDS[:12] == 5, 2, IDS[:12])
    sometimes[:12] = torch.where(IDS[:12] == 7, 1, sometimes[:12])
    assert bool((IDS[12:] == 5).any())
    assert which_ids(sometimes, IDS) is None


def of_blocks(rule, experts=2, room=8):
    """Ids by row of blocks for each expert, of which six rows are used; and what a rule gives."""
    rows = torch.arange(experts * room)
    right = torch.where(rows % room < 6, rows // room, -1)
    actual = torch.where(right >= 0, rule(rows), -1)
    return by_row(actual[:, None].float(), right[:, None].float(), rows)


def test_ids_that_follow_from_the_number_of_the_row_alone():
    said = "row r has the id {}, whatever its expert is"
    assert of_blocks(lambda r: r % 2) == said.format("r % 2")
    assert of_blocks(lambda r: r % 3, experts=3) == said.format("r % 3")
    assert of_blocks(lambda r: r // 6) == said.format("r // 6")
    assert of_blocks(lambda r: r // 8) is None  # right
    assert of_blocks(lambda r: torch.zeros_like(r)) is None
    assert by_row(IDS, IDS.flip(0), torch.arange(len(IDS))) is None  # several ids in a row


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_random_ids_follow_from_no_number(seed):
    generator = torch.Generator().manual_seed(seed)
    assert of_blocks(lambda r: torch.randint(0, 2, r.shape, generator=generator)) is None
