"""Divisions come with the fewest groups first, and none has too many for its elements."""

from __future__ import annotations

import torch

from harness.diagnosis.element_groups import ENOUGH, groups_of
from tests.harness.diagnosis.drawn_errors import COLUMNS, EXPERTS, ROWS, holding, right


def test_the_fewest_groups_come_first_and_none_has_too_few_elements():
    found = list(groups_of(right(halves=True)))
    sizes = [groups.shape[0] * groups.shape[1] for groups in found]
    assert sizes == sorted(sizes)
    assert max(sizes) * ENOUGH <= ROWS * COLUMNS
    names = [groups.name for groups in found]
    assert names[:3] == ["", "half", "block of 128 columns"]
    assert {"expert", "row", "column", "expert and column", "row and half"} <= set(names)
    assert "row and column" not in names


def test_each_element_has_its_group_and_each_group_its_facts():
    (groups,) = [g for g in groups_of(right()) if g.name == "expert and block of 64 columns"]
    assert groups.shape == (EXPERTS, 3)
    expected = torch.arange(ROWS)[:, None] // 8 * 3 + torch.arange(COLUMNS) // 64
    assert torch.equal(groups.of_element, expected)
    experts, blocks = groups.facts
    assert experts.values.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [blocks.text([int(v)]) for v in blocks.values[:3]] == [
        "columns 0-63",
        "columns 64-127",
        "columns 128-191",
    ]


def test_wrong_elements_need_groups_with_enough_elements():
    """A factor for each expert and column explains whatever an expert's only row holds."""
    errors = right().of_rows(torch.cat([torch.arange(8), torch.tensor([8, 9])]))
    whole = {groups.name for groups in groups_of(errors)}
    assert "expert and column" in whole
    wrong = errors.expected.clone()
    wrong[8:] = wrong[8:].flip(1)
    of_two = {groups.name for groups in groups_of(holding(errors, wrong))}
    assert "expert and column" not in of_two
    assert "expert" in of_two
