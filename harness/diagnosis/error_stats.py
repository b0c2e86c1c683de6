"""Compute how much of an output is wrong and where, as JSON-able numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from harness.record.diagnosis import Element, Facts, Share, Values
from harness.record.formatting import numbers_text

if TYPE_CHECKING:
    from torch import Tensor

    from harness.diagnosis.patterns import Mismatch
    from harness.record.diagnosis import Number


def facts(actual: Tensor, expected: Tensor, mismatch: Mismatch) -> Facts:
    """Return counts, the first and the worst wrong element, value ranges and total errors.

    actual, expected: [T, K] float.
    """
    values = actual.to(expected.dtype)
    first, worst = _elements(values, expected, mismatch.elements)
    rel_rms, one_minus_cosine = _distance(values, expected)
    return Facts(
        rows=_share(mismatch.rows),
        columns=_share(mismatch.columns),
        elements=Share(wrong=int(mismatch.elements.sum()), of=mismatch.elements.numel()),
        first=first,
        worst=worst,
        actual=_values(values, expected),
        expected=_values(expected, expected),
        rel_rms=rel_rms,
        one_minus_cosine=one_minus_cosine,
    )


def number(value: float) -> Number:
    """Return a value for JSON, which has no NaN and infinity: they become `nan`, `inf`, `-inf`."""
    return float(value) if math.isfinite(value) else str(float(value))


def _share(mask: Tensor) -> Share:
    numbers = numbers_text(mask.nonzero().flatten().tolist())
    return Share(wrong=int(mask.sum()), of=len(mask), numbers=numbers)


def _elements(
    values: Tensor, expected: Tensor, is_wrong: Tensor
) -> tuple[Element | None, Element | None]:
    """Return the first wrong element in row order, and the worst by error over row rms."""
    if not bool(is_wrong.any()):
        return None, None
    rms = expected.square().mean(dim=1, keepdim=True).sqrt()
    relative_error = (values - expected).abs() / rms  # Inf where a row of zeros is expected
    finite = torch.where(is_wrong & relative_error.isfinite(), relative_error, -1.0)
    first = int(is_wrong.flatten().to(torch.uint8).argmax())
    worst = int(finite.argmax()) if bool((finite >= 0).any()) else first
    return (
        _element(values, expected, relative_error, first),
        _element(values, expected, relative_error, worst),
    )


def _element(values: Tensor, expected: Tensor, relative_error: Tensor, place: int) -> Element:
    """Return the element number `place`, counted row by row."""
    row, column = divmod(place, values.shape[1])
    over_rms = float(relative_error[row, column])
    return Element(
        row=row,
        column=column,
        actual=number(float(values[row, column])),
        expected=number(float(expected[row, column])),
        over_rms=over_rms if math.isfinite(over_rms) else None,
    )


def _values(side: Tensor, expected: Tensor) -> Values:
    finite = side[side.isfinite()]
    zero_rows = (side == 0).all(dim=1) & (expected != 0).any(dim=1)
    return Values(
        min=number(float(finite.min())) if len(finite) else None,
        max=number(float(finite.max())) if len(finite) else None,
        nan=int(side.isnan().sum()),
        inf=int(side.isinf().sum()),
        zero_rows=numbers_text(zero_rows.nonzero().flatten().tolist()),
        unwritten_rows=numbers_text(side.isnan().all(dim=1).nonzero().flatten().tolist()),
    )


def _distance(values: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return relative rms error and 1 - cosine over all finite elements."""
    finite = values.isfinite()
    values, expected = torch.where(finite, values, 0.0), torch.where(finite, expected, 0.0)
    length, size = (
        math.sqrt(float(t.square().sum(dtype=torch.float64))) for t in (expected, values)
    )
    inner = float((values.double() * expected.double()).sum())
    cosine = min(inner / (length * size), 1.0) if length * size else 0.0
    return float((values - expected).norm()) / max(length, 1e-300), 1 - cosine
