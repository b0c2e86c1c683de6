"""Measure how well predicted outputs explain the wrong rows of an output.

A prediction is named as a cause only if it fits: all wrong rows are within the checks' tolerance of
it, and the unexplained part of the error is small. So two outputs that are both close to the
reference are never taken for one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.output import row_tolerance
from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene

MAX_RESIDUAL = 0.25  # largest unexplained fraction of the error for a cause to be named
TOLERANCE_FACTOR = 1.5  # times the row tolerance: the prediction is noisy, too


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Tell how well one prediction fits. residual: the fraction of the error that it leaves.

    where: the part of the output that it explains, as the end of a sentence; empty for all of it.
    """

    residual: float
    named: bool
    where: str


def fits_of(scene: Scene, predicted: Tensor, is_wrong: Tensor, columns: Tensor | None) -> list[Fit]:
    """Return each prediction's fit in all columns, or in the wrong ones if only that is named.

    predicted: [H, r', K], of the first r' rows of the scene. is_wrong: [r] bool. columns: [K] bool,
    the wrong ones, or None if these have no pattern.
    """
    fits = _fits(scene, predicted, is_wrong, None)
    if columns is None:
        return fits
    partial = _fits(scene, predicted, is_wrong, columns)
    return [
        part if part.named and not fit.named else fit
        for fit, part in zip(fits, partial, strict=True)
    ]


def _fits(scene: Scene, predicted: Tensor, is_wrong: Tensor, columns: Tensor | None) -> list[Fit]:
    """Return the fits in these columns, or in all. Waits for the device once."""
    rows = slice(0, predicted.shape[1])
    part = slice(None) if columns is None else columns
    wrong = is_wrong[rows]
    actual, expected = scene.actual[rows, part].float(), scene.answer.out[rows, part].float()
    hypothetical = predicted[:, :, part].to(scene.actual.dtype).float()
    unit = expected.square().mean(dim=1, keepdim=True).sqrt()
    remaining = lengths(actual, hypothetical, unit)  # [H, r']
    held = expected.to(scene.actual.dtype).float()  # a mistake that changes nothing rounds, too
    distance = torch.minimum(*(lengths(actual, right, unit) for right in (expected, held)))
    ratio = hypothetical.nan_to_num().norm(dim=2) / expected.norm(dim=1).clamp(min=1e-38)
    tolerance = TOLERANCE_FACTOR * row_tolerance(scene.answer)[rows] * ratio.clamp(min=1, max=1e3)
    within = (remaining <= tolerance).double()
    error = distance[wrong].norm()
    left = remaining[:, wrong].norm(dim=1) / error.clamp(min=1e-38)
    residual = torch.where(error > 0, left, torch.ones_like(left))  # no error is left unexplained
    measured = torch.stack([residual, within[:, wrong].mean(dim=1), within.mean(dim=1)], dim=1)
    return [_fit(*numbers, in_columns=columns is not None) for numbers in measured.tolist()]


def _fit(residual: float, fits: float, fits_all: float, *, in_columns: bool) -> Fit:
    """Return the fit. fits, fits_all: the fractions of the wrong rows and of all that fit."""
    places = [] if fits_all == 1 else ["rows"]
    places += ["columns"] if in_columns else []
    where = f"in the wrong {' and '.join(places)} only" if places else ""
    named = fits == 1 and residual <= MAX_RESIDUAL
    return Fit(residual=residual, named=named, where=where)


def lengths(a: Tensor, b: Tensor, unit: Tensor) -> Tensor:
    """Return the norm of a - b in each row. a: [r, K]; b: [r, K] or [H, r, K].

    An element that is finite on one side only counts as a thousand times the row's rms `unit`.
    NaN on both sides is no difference: a mistake may give NaN.
    """
    is_equal = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(is_equal, 0.0, a - b)
    # In float64: uninitialised memory may hold values whose squares overflow float32
    finite = torch.where(difference.isfinite(), difference, 1e3 * unit)
    norms: Tensor = finite.double().norm(dim=-1)
    return norms


def grid_of(values: Tensor) -> str | None:
    """Return the 16-bit dtype that holds all the values, or None."""
    for dtype in ("bf16", "fp16"):
        if torch.equal(on_grid(values, dtype), values):
            return dtype
    return None
