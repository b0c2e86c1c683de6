"""Compute how much of an output is wrong and where, as JSON-able numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from harness.formatting import numbers_text

if TYPE_CHECKING:
    from torch import Tensor

    from harness.diagnosis.patterns import Mismatch


def facts(actual: Tensor, expected: Tensor, mismatch: Mismatch) -> dict[str, Any]:
    """Return counts, the first and the worst wrong element, value ranges and total errors.

    actual, expected: [T, K] float.
    """
    values, columns = actual.to(expected.dtype), mismatch.columns
    return {
        "rows": _share(mismatch.rows),
        "columns": _share(columns),
        "elements": {"wrong": int(mismatch.elements.sum()), "of": mismatch.elements.numel()},
        **_elements(values, expected, mismatch.elements),
        "actual": _values(values, expected),
        "expected": _values(expected, expected),
        **_distance(values, expected),
    }


def number(value: float) -> float | str:
    """Return a value for JSON, which has no NaN and infinity: they become `nan`, `inf`, `-inf`."""
    return float(value) if math.isfinite(value) else str(float(value))


def _share(mask: Tensor) -> dict[str, Any]:
    numbers = numbers_text(mask.nonzero().flatten().tolist())
    return {"wrong": int(mask.sum()), "of": len(mask), "which": numbers}


def _elements(values: Tensor, expected: Tensor, is_wrong: Tensor) -> dict[str, Any]:
    """Return the `first` wrong element in row order, and the `worst` by error over row rms."""
    if not bool(is_wrong.any()):
        return {}
    width = is_wrong.shape[1]
    rms = expected.square().mean(dim=1, keepdim=True).sqrt()
    relative_error = (values - expected).abs() / rms  # Inf where a row of zeros is expected
    finite = torch.where(is_wrong & relative_error.isfinite(), relative_error, -1.0)
    first = int(is_wrong.flatten().to(torch.uint8).argmax())
    worst = int(finite.argmax()) if bool((finite >= 0).any()) else first
    elements: dict[str, Any] = {}
    for name, place in (("first", first), ("worst", worst)):
        row, column = divmod(place, width)
        elements[name] = {
            "row": row,
            "column": column,
            "actual": number(float(values[row, column])),
            "expected": number(float(expected[row, column])),
        }
        if bool(relative_error[row, column].isfinite()):
            elements[name]["over_rms"] = float(relative_error[row, column])
    return elements


def _values(side: Tensor, expected: Tensor) -> dict[str, Any]:
    finite = side[side.isfinite()]
    zero_rows = (side == 0).all(dim=1) & (expected != 0).any(dim=1)
    return {
        "min": number(float(finite.min())) if len(finite) else None,
        "max": number(float(finite.max())) if len(finite) else None,
        "nan": int(side.isnan().sum()),
        "inf": int(side.isinf().sum()),
        "zero_rows": numbers_text(zero_rows.nonzero().flatten().tolist()),
        "unwritten_rows": numbers_text(side.isnan().all(dim=1).nonzero().flatten().tolist()),
    }


def _distance(values: Tensor, expected: Tensor) -> dict[str, Any]:
    """Return relative rms error and 1 - cosine over all finite elements."""
    finite = values.isfinite()
    values, expected = torch.where(finite, values, 0.0), torch.where(finite, expected, 0.0)
    length, size = (
        math.sqrt(float(t.square().sum(dtype=torch.float64))) for t in (expected, values)
    )
    inner = float((values.double() * expected.double()).sum())
    cosine = min(inner / (length * size), 1.0) if length * size else 0.0
    return {
        "rel_rms": float((values - expected).norm()) / max(length, 1e-300),
        "one_minus_cosine": 1 - cosine,
    }
