"""Matrices and codes as the tests of quant methods write them."""

from __future__ import annotations

import torch


def bits(codes):
    return codes.view(torch.uint8).tolist()


def matrix(rows, columns, **values):
    """Zeros but for values given as `r2_c7=448.0`."""
    made = torch.zeros(rows, columns)
    for place, value in values.items():
        row, column = place.split("_")
        made[int(row[1:]), int(column[1:])] = value
    return made
