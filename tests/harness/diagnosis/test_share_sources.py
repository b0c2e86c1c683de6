"""Rules about where a term comes from name existing terms, and say of which rows."""

from __future__ import annotations

import torch

from harness.diagnosis.share_sources import sources

ROWS = torch.tensor([3, 0, 1, 2])  # their numbers: the first one is row 3


def by_text(has=None, experts=None):
    has = torch.ones(4, 2, dtype=torch.bool) if has is None else has
    rules = {}
    for source in sources(ROWS, has, experts):
        assert source.at.shape == (4, 2)
        assert int(source.at.min()) >= -1
        assert int(source.at.max()) < 8
        rules.setdefault(source.text, []).append(source.at.tolist())
    return rules


def test_the_row_before_is_the_one_with_the_number_before():
    circle, *others = (by_text()[f"the row before it{end}"] for end in (", in a circle", ""))
    assert circle == [[[6, 7], [0, 1], [2, 3], [4, 5]]]
    assert [[6, 7], [-1, -1], [2, 3], [4, 5]] in others[0]  # nothing is before row 0


def test_terms_that_a_row_lacks_are_skipped():
    has = torch.tensor([[1, 1], [1, 1], [0, 1], [1, 1]]).bool()  # row 1 has no first term
    (at, *_) = by_text(has)["the row before it that has one there, in a circle"]
    assert [slots[0] for slots in at] == [6, 0, -1, 2]


def test_rows_of_an_expert_are_in_the_order_of_numbers():
    experts = torch.tensor([[0, 1], [0, 1], [0, 1], [0, 1]])
    (own, none) = by_text(experts=experts)["the expert's row before it"]
    assert own == [[6, 7], [2, 3], [2, 3], [4, 5]]
    assert none == [[6, 7], [-1, -1], [2, 3], [4, 5]]
