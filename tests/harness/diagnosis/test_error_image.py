"""Errors as a picture: dark where an output is right, bright where it is wrong."""

from __future__ import annotations

import dataclasses

import torch

from harness.diagnosis.error_image import HIGHEST, LOWEST, SIDE, error_levels, save_rows
from harness.report.png import BROKEN
from tests.harness.diagnosis.mistaken import CASE, call_of, with_output

ROWS = torch.tensor([[1.0, -1.0, 1.0, -1.0], [100.0, -100.0, 100.0, -100.0]])  # rms 1 and 100


def levels(actual: torch.Tensor, expected: torch.Tensor = ROWS) -> list[list[int]]:
    return [list(row) for row in error_levels(actual, expected)]


def test_the_level_is_the_error_over_its_row_s_rms():
    actual = ROWS.clone()
    actual[0, 1] += 10**HIGHEST
    actual[1, 1] += 10**HIGHEST * 100
    actual[0, 2] += 10 ** ((LOWEST + HIGHEST) / 2)
    actual[1, 2] += 10 ** ((LOWEST + HIGHEST) / 2) * 100
    actual[1, 3] += 10 ** (LOWEST - 2) * 100
    brightest, middle = BROKEN - 1, (BROKEN - 1) // 2
    assert levels(actual) == [[0, brightest, middle, 0], [0, brightest, middle, 0]]


def test_nan_and_inf_have_a_colour_of_their_own():
    actual = ROWS.clone()
    actual[0, 0], actual[1, 3] = torch.nan, -torch.inf
    assert levels(actual) == [[BROKEN, 0, 0, 0], [0, 0, 0, BROKEN]]


def test_a_large_output_shows_the_largest_error_of_each_patch():
    expected = torch.ones(2 * SIDE, 4)
    actual = expected.clone()
    actual[7, 2] += 10**HIGHEST
    made = levels(actual, expected)
    assert (len(made), len(made[0])) == (SIDE, 4)
    bright = [(r, c, v) for r, row in enumerate(made) for c, v in enumerate(row) if v]
    assert bright == [(3, 2, BROKEN - 1)]


def test_the_picture_is_named_and_says_what_its_axes_and_colours_are(tmp_path):
    call = call_of(CASE)[0]
    name = save_rows(with_output(call, call.answer.out * 2), str(tmp_path), "a-case.rank0")
    assert name == "a-case.rank0.png"
    data = (tmp_path / name).read_bytes()
    assert data.startswith(b"\x89PNG")
    assert f"rows 0-{CASE.m - 1} down, columns 0-{CASE.k - 1} across".encode() in data
    other = dataclasses.replace(call, output=dataclasses.replace(call.output, out=call.answer.out))
    save_rows(other, str(tmp_path), "right")
    assert (tmp_path / "right.png").read_bytes() != data
