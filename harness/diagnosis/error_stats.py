"""How much of an output is wrong and where, in plain numbers that go through JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from harness.formatting import numbers_text
from harness.record.diagnosis import Element, Facts, Share, Values

if TYPE_CHECKING:
    from torch import Tensor

    from harness.diagnosis.patterns import Wrong
    from harness.record.diagnosis import Number


def facts(actual: Tensor, expected: Tensor, wrong: Wrong) -> Facts:
    """Both [T, K] float. Counts, the first and the worst wrong element, both sides' values."""
    got = actual.to(expected.dtype)
    first, worst = _elements(got, expected, wrong.elements)
    rel_rms, one_minus_cosine = _distance(got, expected)
    return Facts(
        rows=_share(wrong.rows),
        columns=_share(wrong.columns),
        elements=Share(wrong=int(wrong.elements.sum()), of=wrong.elements.numel()),
        first=first,
        worst=worst,
        actual=_values(got, expected),
        expected=_values(expected, expected),
        rel_rms=rel_rms,
        one_minus_cosine=one_minus_cosine,
    )


def number(value: float) -> Number:
    """JSON has no NaN and no infinity: they become `nan`, `inf`, `-inf`."""
    return float(value) if math.isfinite(value) else str(float(value))


def _share(mask: Tensor) -> Share:
    numbers = numbers_text(mask.nonzero().flatten().tolist())
    return Share(wrong=int(mask.sum()), of=len(mask), which=numbers)


def _elements(
    got: Tensor, expected: Tensor, wrong: Tensor
) -> tuple[Element | None, Element | None]:
    """The first in the order of rows, and the worst by its distance over its row's rms."""
    if not bool(wrong.any()):
        return None, None
    rms = expected.square().mean(dim=1, keepdim=True).sqrt()
    off = (got - expected).abs() / rms  # Inf where a row of zeros is expected
    finite = torch.where(wrong & off.isfinite(), off, -1.0)
    first = int(wrong.flatten().to(torch.uint8).argmax())
    worst = int(finite.argmax()) if bool((finite >= 0).any()) else first
    return _element(got, expected, off, first), _element(got, expected, off, worst)


def _element(got: Tensor, expected: Tensor, off: Tensor, place: int) -> Element:
    """place: number of the element, rows one after another."""
    row, column = divmod(place, got.shape[1])
    over_rms = float(off[row, column])
    return Element(
        row=row,
        column=column,
        actual=number(float(got[row, column])),
        expected=number(float(expected[row, column])),
        over_rms=over_rms if math.isfinite(over_rms) else None,
    )


def _values(side: Tensor, expected: Tensor) -> Values:
    finite = side[side.isfinite()]
    empty = (side == 0).all(dim=1) & (expected != 0).any(dim=1)
    return Values(
        min=number(float(finite.min())) if len(finite) else None,
        max=number(float(finite.max())) if len(finite) else None,
        nan=int(side.isnan().sum()),
        inf=int(side.isinf().sum()),
        zero_rows=numbers_text(empty.nonzero().flatten().tolist()),
        unwritten_rows=numbers_text(side.isnan().all(dim=1).nonzero().flatten().tolist()),
    )


def _distance(got: Tensor, expected: Tensor) -> tuple[float, float]:
    """Over all finite elements: relative rms error, and one less the cosine."""
    finite = got.isfinite()
    got, expected = torch.where(finite, got, 0.0), torch.where(finite, expected, 0.0)
    length, size = (math.sqrt(float(t.square().sum(dtype=torch.float64))) for t in (expected, got))
    inner = float((got.double() * expected.double()).sum())
    cosine = min(inner / (length * size), 1.0) if length * size else 0.0
    return float((got - expected).norm()) / max(length, 1e-300), 1 - cosine
