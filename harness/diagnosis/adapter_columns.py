"""Find whether what adapters add to a product lies in other columns, as by another stride."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.which_adapters import applied_of
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

NAME = "adapter_columns"
MOST = 0.5  # of a half's columns, by which its part may be displaced


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield by how many columns the adapters' part of a wrong product is displaced."""
    known = applied_of(evidence)
    if known is not None:
        errors, setting, right = known
        yield from adapter_columns(errors, setting.added(right))


def adapter_columns(errors: StageErrors, added: Tensor) -> Iterator[NamedCause]:
    """Yield the statement if other columns explain all rows. added: [R, C], what should be."""
    if not bool(errors.actual.isfinite().all()) or not bool(added.any()):
        return
    base, width = errors.expected - added, added.shape[1] // (2 if errors.halves else 1)
    wanted = torch.split(errors.actual - base, width, dim=1)
    places = [_place(*pair) for pair in zip(torch.split(added, width, dim=1), wanted, strict=True)]
    moved = [displaced(a, d) for a, d in zip(torch.split(added, width, dim=1), places, strict=True)]
    residual = errors.left_by(base + torch.cat(moved, dim=1)) if any(places) else None
    if residual is not None and residual <= MAX_RESIDUAL:
        names = ("to gate", "to up") if errors.halves else ("",)
        text = " and ".join(_text(name, d) for name, d in zip(names, places, strict=True) if d)
        yield NamedCause(name=NAME, cause=f"{errors.place} {text}", residual=residual)


def _text(name: str, distance: int) -> str:
    side = "before" if distance > 0 else "after"
    what = f"what adapters add {name}".strip()
    return f"{what} lies {abs(distance)} columns {side} where it should"


def displaced(part: Tensor, distance: int) -> Tensor:
    """Return [R, n], in each column what a part has so many columns after it; zeros beyond."""
    padded = torch.nn.functional.pad(part, (max(-distance, 0), max(distance, 0)))
    start = max(distance, 0)
    return padded[:, start : start + part.shape[1]]


def _place(part: Tensor, wanted: Tensor) -> int:
    """Return by how many columns a part [R, n] is displaced in what was wanted of it."""
    farthest = int(MOST * part.shape[1])
    distances = sorted(range(-farthest, farthest + 1), key=abs)
    left = [float((wanted - displaced(part, distance)).norm()) for distance in distances]
    return distances[left.index(min(left))]
