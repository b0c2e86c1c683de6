"""Other readings of rows hold what they say."""

from __future__ import annotations

import torch

from harness.diagnosis.input_readings import Values, other_places, readings

CODES = torch.arange(24.0).view(3, 8)
SCALES = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
INPUTS = Values(codes=CODES, scale=SCALES.repeat_interleave(4, dim=1), group=4)
OWN = torch.tensor([0, 2])


def test_codes_with_the_scales_of_other_groups():
    by_text = dict(readings(INPUTS, OWN))
    first = by_text["its own codes, with the scales of the first group"]
    assert torch.equal(first, CODES[OWN] * torch.tensor([[1.0], [5.0]]))
    tiled = by_text["its own codes, column c with the scale c % 2, not c // 4"]
    assert torch.equal(tiled, CODES[OWN] * SCALES[OWN].repeat(1, 4))
    assert torch.equal(by_text["its own codes, without their scales"], CODES[OWN])
    left = by_text[
        "its own row with the codes one column to the left, in a circle, and not their scales"
    ]
    assert left[1].tolist() == [85, 90, 95, 100, 126, 132, 138, 96]


def test_scales_that_other_numbers_lead_to():
    places = dict(other_places(SCALES))
    transposed = places["the number group * rows + row, not row * groups + group"]
    assert transposed.tolist() == [[1, 4], [2, 5], [3, 6]]
    stored = places["the number row * groups + group, where that of group * rows + row is stored"]
    assert stored.tolist() == [[1, 3], [5, 2], [4, 6]]
    added = places["the number row + groups * group, not row * groups + group"]
    assert added.tolist() == [[1, 3], [2, 4], [3, 5]]


def test_rows_that_are_read_farther_apart_end_beyond_the_last_one():
    x = Values(codes=torch.arange(36.0).view(3, 12), scale=torch.ones(3, 12))
    by_text = dict(readings(x, torch.arange(3)))
    rows = by_text["rows that are read 16 elements apart, not 12"]
    assert rows[1].tolist() == list(range(16, 28))
    assert bool(rows[2].isnan().any())
    assert not any("scale" in text for text in by_text)
