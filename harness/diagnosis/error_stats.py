"""How much of an output is wrong and where, in plain numbers that go through JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from harness.formatting import numbers_text

if TYPE_CHECKING:
    from torch import Tensor

    from harness.diagnosis.patterns import Wrong


def facts(actual: Tensor, expected: Tensor, wrong: Wrong) -> dict[str, Any]:
    """Both [T, K] float. Counts, the first and the worst wrong element, both sides' values."""
    got, columns = actual.to(expected.dtype), wrong.columns
    return {
        "rows": _share(wrong.rows),
        "columns": _share(columns),
        "elements": {"wrong": int(wrong.elements.sum()), "of": wrong.elements.numel()},
        **_elements(got, expected, wrong.elements),
        "actual": _values(got, expected),
        "expected": _values(expected, expected),
        **_distance(got, expected),
    }


def number(value: float) -> float | str:
    """JSON has no NaN and no infinity: they become `nan`, `inf`, `-inf`."""
    return float(value) if math.isfinite(value) else str(float(value))


def _share(mask: Tensor) -> dict[str, Any]:
    which = numbers_text(mask.nonzero().flatten().tolist())
    return {"wrong": int(mask.sum()), "of": len(mask), "which": which}


def _elements(got: Tensor, expected: Tensor, wrong: Tensor) -> dict[str, Any]:
    """`first` in the order of rows, and `worst` by its distance over its row's rms."""
    if not bool(wrong.any()):
        return {}
    width = wrong.shape[1]
    rms = expected.square().mean(dim=1, keepdim=True).sqrt()
    off = (got - expected).abs() / rms  # Inf where a row of zeros is expected
    finite = torch.where(wrong & off.isfinite(), off, -1.0)
    first = int(wrong.flatten().to(torch.uint8).argmax())
    worst = int(finite.argmax()) if bool((finite >= 0).any()) else first
    found: dict[str, Any] = {}
    for name, place in (("first", first), ("worst", worst)):
        row, column = divmod(place, width)
        found[name] = {
            "row": row,
            "column": column,
            "actual": number(float(got[row, column])),
            "expected": number(float(expected[row, column])),
        }
        if bool(off[row, column].isfinite()):
            found[name]["over_rms"] = float(off[row, column])
    return found


def _values(side: Tensor, expected: Tensor) -> dict[str, Any]:
    finite = side[side.isfinite()]
    empty = (side == 0).all(dim=1) & (expected != 0).any(dim=1)
    return {
        "min": number(float(finite.min())) if len(finite) else None,
        "max": number(float(finite.max())) if len(finite) else None,
        "nan": int(side.isnan().sum()),
        "inf": int(side.isinf().sum()),
        "zero_rows": numbers_text(empty.nonzero().flatten().tolist()),
        "unwritten_rows": numbers_text(side.isnan().all(dim=1).nonzero().flatten().tolist()),
    }


def _distance(got: Tensor, expected: Tensor) -> dict[str, Any]:
    """Over all finite elements: relative rms error, and one less the cosine."""
    finite = got.isfinite()
    got, expected = torch.where(finite, got, 0.0), torch.where(finite, expected, 0.0)
    length, size = (math.sqrt(float(t.square().sum(dtype=torch.float64))) for t in (expected, got))
    inner = float((got.double() * expected.double()).sum())
    cosine = min(inner / (length * size), 1.0) if length * size else 0.0
    return {
        "rel_rms": float((got - expected).norm()) / max(length, 1e-300),
        "one_minus_cosine": 1 - cosine,
    }
