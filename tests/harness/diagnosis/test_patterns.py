"""Patterns: true sentences about what is wrong, and none where chance may have drawn it."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis.patterns import Mismatch, find_mismatch, of_columns, of_rows
from tests.harness.diagnosis.masks import mask, texts
from tests.harness.diagnosis.mistaken import CASE, call_of


@pytest.mark.parametrize(
    ("total", "wrong", "text"),
    [
        (222, range(208, 222), "rows 208-221: the last, partly filled block of 16"),
        (222, range(222), "all rows"),
        (222, range(1, 222, 2), "odd rows only"),
        (222, range(0, 222, 2), "even rows only"),
        (64, range(3, 64, 4), "every fourth row only, from 3 on"),
        (256, range(128, 192), "rows 128-191 only: one block of 64"),
        (256, range(17, 40), "rows 17-39 only"),
        (256, range(100), "rows < 100 only"),
        (256, range(192, 256), "rows 192-255: the last block of 64"),
        (100, [0], "the first row only"),
        (100, [99], "the last row only"),
        (
            64,
            [*range(16, 32), *range(48, 64)],
            "every second 16-block of rows only, from row 16 on",
        ),
    ],
)
def test_rows(total, wrong, text):
    assert texts(of_rows(mask(total, wrong))) == [text]


def test_half_a_pattern_is_none():
    """All odd rows and some even ones: "odd rows only" would be untrue."""
    assert of_rows(mask(200, [*range(1, 200, 2), *range(0, 200, 10)])) == []
    assert of_columns(wrong_columns(2048, [*range(1, 2048, 2), *range(0, 2048, 10)])) == []


@pytest.mark.parametrize(
    ("total", "wrong"),
    [(4, [3]), (30, [7]), (40, [5, 9]), (16, [2, 3, 7, 9, 12]), (10, []), (4, [1, 3])],
)
def test_rows_that_chance_may_draw_have_no_pattern(total, wrong):
    assert of_rows(mask(total, wrong)) == []


def wrong_columns(total: int, columns: range | list[int], rows: int = 4) -> Mismatch:
    elements = torch.zeros((2 * rows, total), dtype=torch.bool)
    elements[:rows] = mask(total, columns)
    return Mismatch(rows=elements.any(dim=1), elements=elements)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (range(1024, 2048), "columns >= 1024 only"),
        (range(128, 256), "columns 128-255 only: one block of 128"),
        (range(1920, 2048), "columns >= 1920 only: the last block of 128"),
        (range(512), "columns < 512 only"),
        (range(1, 2048, 2), "odd columns only"),
        ([2047], "the last column only"),
        (
            [c for c in range(2048) if c // 128 % 2],
            "every second 128-block of K only, from column 128 on",
        ),
        (
            [c for c in range(2048) if c // 32 % 4 == 2],
            "every fourth 32-block of K only, from column 64 on",
        ),
    ],
)
def test_columns(columns, text):
    assert texts(of_columns(wrong_columns(2048, columns))) == [text]


def test_a_single_row_s_range_is_known_though_some_of_it_is_right_by_luck():
    columns = [c for c in range(1024, 2048) if c % 11]
    columns = columns[3:]
    assert texts(of_columns(wrong_columns(2048, columns, rows=1))) == ["columns >= 1024 only"]


def test_all_columns_or_scattered_ones_have_no_pattern():
    assert of_columns(wrong_columns(2048, range(2048))) == []
    generator = torch.Generator().manual_seed(0)
    scattered = (torch.rand(2048, generator=generator) < 0.1).nonzero().flatten().tolist()
    assert of_columns(wrong_columns(2048, scattered)) == []
    assert of_columns(wrong_columns(2048, [])) == []


def test_wrong_elements_are_the_planted_ones():
    call, _ = call_of()
    out = call.output.out.clone()
    assert not find_mismatch(out, call.answer).rows.any()
    out[7, 100:200] *= -1
    out[9, 3] = float("nan")
    wrong = find_mismatch(out, call.answer)
    assert wrong.rows.nonzero().flatten().tolist() == [7, 9]
    assert wrong.elements[9].nonzero().flatten().tolist() == [3]
    planted = wrong.elements[7].nonzero().flatten().tolist()
    assert set(planted) <= set(range(100, 200))
    assert len(planted) > 90
    assert CASE.m == len(out)


def test_an_error_spread_over_a_row_has_elements_too():
    call, _ = call_of()
    shift = 2.5 * call.answer.variance.sqrt()[:, None] / CASE.k**0.5
    wrong = find_mismatch(call.answer.out + shift, call.answer)
    assert wrong.rows.all()
    assert wrong.elements.any(dim=1).all()
