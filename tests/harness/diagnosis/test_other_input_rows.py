"""Other rows of an input are those that the rule says."""

from __future__ import annotations

import torch

from harness.diagnosis.other_input_rows import Numbering, other_rows

IDS = torch.tensor([[1, 0], [-1, 1], [0, -1]])  # in the order of experts: 1, 4, 0, 3
FLAT = torch.tensor([0, 1, 3, 4])


def rules(of_tokens):
    rows = Numbering(flat=FLAT, ids=IDS, of_tokens=of_tokens)
    return {text: at.tolist() for text, at in other_rows(rows)}


def test_rows_of_tokens():
    rows = rules(of_tokens=True)
    assert rows["with the number row * k + slot"] == [0, 1, 3, 4]
    assert rows["with the number row * k + slot, modulo the rows"] == [0, 1, 0, 1]
    assert rows["with its number in the order of experts"] == [2, 0, 3, 1]
    assert rows["with its number in the order of experts // k"] == [1, 0, 1, 0]
    assert rows["with its number among its expert's rows"] == [0, 0, 1, 1]
    assert rows["with its expert's number on this rank"] == [1, 0, 1, 0]
    assert rows["before its own"] == [-1, -1, 0, 1]
    assert rows["after its own, in a circle"] == [1, 1, 2, 0]
    assert rows["in its place from the last one on"] == [2, 2, 1, 0]


def test_rows_of_slots():
    rows = rules(of_tokens=False)
    assert rows["with the number of its token"] == [0, 0, 1, 2]
    assert rows["with the number slot * rows + row"] == [0, 3, 4, 2]
    assert rows["that comes there in the order of experts"] == [1, 4, 3, 2]
    assert rows["with its number in the order of experts"] == [2, 0, 3, 1]


def test_one_slot_has_no_rule_about_slots():
    rows = Numbering(flat=torch.arange(3), ids=torch.tensor([[1], [0], [1]]), of_tokens=True)
    assert not any("row * k" in text for text, _ in other_rows(rows))
    assert rows.own.tolist() == [0, 1, 2]
