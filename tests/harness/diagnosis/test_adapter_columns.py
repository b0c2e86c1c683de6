"""Where the adapters' part lies is named, of each half; nothing is said if it is only wrong."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis.adapter_columns import adapter_columns
from tests.harness.diagnosis.drawn_errors import COLUMNS, ROWS, holding, right

HALF = COLUMNS // 2


def said(of_gate, of_up, halves=True):
    errors = right(seed=4, halves=halves)
    added = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(5))
    added[::4] = 0.0  # rows without an adapter
    parts = (added[:, :HALF], added[:, HALF:]) if halves else (added,)
    moved = torch.cat([of(part) for of, part in zip((of_gate, of_up), parts, strict=False)], dim=1)
    held = holding(errors, errors.expected - added + moved)
    causes = [cause.cause for cause in adapter_columns(held, added)]
    return causes[0].removeprefix("in stage gemm1 ") if causes else None


def by(distance):
    """Put each column so many columns further to the left; what is beyond an end is lost."""

    def put(part):
        wide = torch.cat([torch.zeros_like(part), part, torch.zeros_like(part)], dim=1)
        start = part.shape[1] + distance
        return wide[:, start : start + part.shape[1]]

    return put


@pytest.mark.parametrize(
    ("gate", "up", "text"),
    [
        (0, 16, "what adapters add to up lies 16 columns before where it should"),
        (-3, 0, "what adapters add to gate lies 3 columns after where it should"),
        (
            8,
            -8,
            "what adapters add to gate lies 8 columns before where it should and "
            "what adapters add to up lies 8 columns after where it should",
        ),
    ],
)
def test_where_the_part_of_a_half_lies(gate, up, text):
    assert said(by(gate), by(up)) == text


def test_where_the_part_of_a_product_without_halves_lies():
    text = "what adapters add lies 5 columns after where it should"
    assert said(by(-5), None, halves=False) == text


def test_nothing_is_said_of_parts_that_are_wrong_otherwise():
    assert said(by(0), by(0)) is None
    assert said(by(0), torch.zeros_like) is None
    assert said(by(0), lambda part: 2 * part) is None
    assert said(by(0), lambda part: part.roll(7, 0)) is None
    assert said(by(0), lambda part: part.roll(7, 1)) is None  # in a circle
