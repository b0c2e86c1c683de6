"""A condition is named if it splits the items exactly and not by chance."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.diagnosis.conditions import Fact, splitting

COUNT = 64
NUMBERS = torch.arange(COUNT).double()
EXPERT = Fact(one="expert", many="experts", values=NUMBERS % 8)
ROW = Fact(one="row", many="rows", values=NUMBERS)
K = Fact(one="k", many="k", values=NUMBERS % 4, unit=32)
WEIGHT = Fact(one="weight", many="weights", values=NUMBERS / 100, is_measured=True)
PART = Fact(one="", many="", values=NUMBERS % 2, names=("the routed", "the shared"))


def texts(changed, *facts, right=None):
    return [c.text for c in splitting(facts, changed, ~changed if right is None else right)]


@pytest.mark.parametrize(
    ("changed", "fact", "text"),
    [
        (NUMBERS % 8 == 3, EXPERT, "expert 3"),
        (NUMBERS % 2 == 1, EXPERT, "odd experts"),
        (NUMBERS % 8 >= 5, EXPERT, "experts >= 5"),
        (NUMBERS % 8 < 3, EXPERT, "experts < 3"),
        ((NUMBERS > 9) & (NUMBERS < 20), ROW, "rows 10-19"),
        ((NUMBERS % 8 == 1) | (NUMBERS % 8 == 6), EXPERT, "experts 1, 6"),
        (NUMBERS % 8 != 4, EXPERT, "experts other than 4"),
        (NUMBERS % 4 == 1, K, "k 32-63"),
        (NUMBERS % 2 == 1, K, "every second block of 32 of k, from 32 on"),
        (NUMBERS % 4 == 3, ROW, "each 4th of the rows, from 3"),
        (NUMBERS % 16 == 5, ROW, "each 16th of the rows, from 5"),
        (NUMBERS < 20, WEIGHT, "weights below 0.195"),
        (NUMBERS > 50, WEIGHT, "weights above 0.505"),
        (NUMBERS % 2 == 1, PART, "the shared"),
    ],
)
def test_each_kind_of_condition(changed, fact, text):
    assert texts(changed, fact) == [text]


def test_two_facts_are_joined_where_no_single_one_splits():
    changed = (NUMBERS % 8 == 3) & (NUMBERS >= 20)
    assert texts(changed, EXPERT, ROW) == ["expert 3 with rows >= 27"]


def test_two_conditions_that_split_alike_are_both_named():
    place = Fact(one="place", many="places", values=NUMBERS % 8 + 10)
    assert texts(NUMBERS % 8 == 3, EXPERT, place) == ["expert 3", "place 13"]


def test_a_split_that_chance_could_give_is_not_named():
    for count in (1, 2, 40, 63, 64):
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(count))
        assert texts(order < count, EXPERT, ROW, K, WEIGHT) == []
    assert texts(NUMBERS == 0, ROW) == []  # exact, but so is any single row


def test_items_that_could_be_either_take_no_part():
    changed, unclear = NUMBERS % 8 == 3, NUMBERS == 11
    assert texts(changed & ~unclear, EXPERT, right=~changed) == ["expert 3"]
    assert texts(changed & ~unclear, EXPERT, right=~changed | unclear) == []


def test_an_item_without_the_value_is_outside_every_condition_on_it():
    values = torch.where(NUMBERS == 5, torch.nan, NUMBERS % 8)
    fact = EXPERT.with_values(values)
    (condition,) = splitting([fact], NUMBERS % 8 == 3, NUMBERS % 8 != 3)
    assert not bool(condition.holds[5])
    assert splitting([fact], NUMBERS % 8 == 5, NUMBERS % 8 != 5) == []


def test_items_of_a_row_that_are_alike_count_once():
    """Two rows of eight that are wrong as a whole have an expert in common by chance."""
    rows = NUMBERS.long() // 8
    expert, changed = EXPERT.with_values((rows // 2).double()), rows // 2 == 1
    assert texts(changed, expert) == ["expert 1"]
    assert texts(changed, dataclasses.replace(expert, within=rows)) == []
    slot = Fact(one="slot", many="slots", values=NUMBERS % 8, within=rows)
    assert texts(NUMBERS % 8 == 5, slot) == ["slot 5"]
    both = (NUMBERS % 8 == 5) & (rows > 2)
    of_row = dataclasses.replace(ROW, values=rows.double(), within=rows)
    assert texts(both, slot, of_row) == ["slot 5 with rows >= 3"]


def test_a_condition_that_excludes_nothing_joins_no_other():
    """Of two rows that are wrong as a whole, which parts are wrong says nothing."""
    rows = NUMBERS.long() // 8
    expert = dataclasses.replace(EXPERT.with_values((rows // 2).double()), within=rows)
    part = Fact(one="k", many="k", values=NUMBERS % 8, unit=16, within=rows)
    assert texts(rows // 2 == 1, expert, part) == []
