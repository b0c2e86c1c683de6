"""Find out whether wrong rows of an output hold other rows' outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.output import row_tolerance
from harness.diagnosis.fit import MAX_RESIDUAL, TOLERANCE_FACTOR
from harness.diagnosis.wrong_rows import spread
from harness.record.diagnosis import NamedCause
from harness.record.formatting import numbers_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.fixtures.layer_call import Call

MOVED_ROWS = 64  # wrong rows that are compared with all rows of the call


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the cause if the wrong rows hold other rows' outputs."""
    cause = moved_rows(evidence.call, evidence.is_wrong)
    if cause is not None:
        yield cause


def moved_rows(call: Call, is_wrong: Tensor) -> NamedCause | None:
    """Return a cause if the wrong rows hold other rows' outputs; searches all rows of the call.

    A row of zeros fits, too, if the distance by which the others moved leads beyond the ends.
    """
    expected = call.answer.out.float()
    if len(expected) < 2:
        return None
    numbers = spread(is_wrong.nonzero().flatten(), MOVED_ROWS)
    actual = call.output.out[numbers].float()
    distances = torch.cdist(actual.nan_to_num(), expected)
    source = distances.argmin(dim=1)
    remaining = (actual - expected[source]).norm(dim=1)
    tolerance = TOLERANCE_FACTOR * row_tolerance(call.answer)[source]
    is_zero = (expected[source] == 0).all(dim=1)  # zeros may come from anywhere
    fits = (source != numbers) & (remaining <= tolerance) & ~is_zero
    zero_rows = _beyond_the_ends(numbers, source, fits, len(expected)) & (actual == 0).all(dim=1)
    if not bool((fits | zero_rows).all()):
        return None
    distance = (actual - expected[numbers]).norm(dim=1)
    residual = float(remaining[fits].norm() / distance[fits].norm().clamp(min=1e-38))
    if residual > MAX_RESIDUAL:
        return None
    text = _moved_text(numbers[fits].tolist(), source[fits].tolist(), len(expected))
    if bool(zero_rows.any()):
        text += (
            f"; rows {numbers_text(numbers[zero_rows].tolist())}, which have no such row, are zeros"
        )
    return NamedCause(name="rows_moved", cause=text, residual=residual)


def _beyond_the_ends(numbers: Tensor, source: Tensor, fits: Tensor, count: int) -> Tensor:
    """Return [r] bool: rows whose source would lie before the first row or after the last one.

    All False unless all rows that fit moved by the same distance.
    """
    steps = set((numbers - source)[fits].tolist())
    if len(steps) != 1:
        return torch.zeros_like(fits)
    expected_source = numbers - steps.pop()
    return torch.logical_or(expected_source < 0, expected_source >= count)


def _moved_text(rows: list[int], sources: list[int], count: int) -> str:
    """Return which rows hold those of which others, of `count` rows of the call."""
    pairs = list(zip(rows, sources, strict=True))
    if len(rows) == 2 and rows == sources[::-1]:
        return f"rows {rows[0]} and {rows[1]} are swapped"
    steps = [row - source for row, source in pairs]
    if len({step % count for step in steps}) == 1 and len(steps) > 1:
        step = min(steps, key=abs)
        side = "before" if step > 0 else "after"
        gap = "" if abs(step) == 1 else f"{abs(step)} "
        ending = "" if len(set(steps)) == 1 else ", in a circle"
        return f"each wrong row holds the output of the row {gap}{side} it{ending}"
    if len(set(sources)) == 1 and len(rows) > 1:
        return f"rows {numbers_text(rows)} all hold the output of row {sources[0]}"
    examples = ", ".join(f"row {row} that of row {source}" for row, source in pairs[:3])
    return f"wrong rows hold other rows' outputs: {examples}"
