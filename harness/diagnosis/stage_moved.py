"""Find columns or rows of the first wrong stage that hold what belongs into others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.stage_errors import MARGIN
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

NAME = "stage_moved"
NOUNS = ("elements", "scales", "router weights")
FEWEST = 4  # elements of a row or column: with fewer, another one may be alike by chance
ALONE = 16  # elements of a row or column that is enough by itself
MOST = 2048  # rows or columns that are compared with each other


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the cause if wrong columns hold other columns' values, or wrong rows other rows'."""
    errors = evidence.errors
    if errors is None or errors.noun not in NOUNS:
        return
    of_rows = moved_rows(errors) if errors.stage else None  # an output's: `rows_moved`
    yield from (cause for cause in (moved_columns(errors), of_rows) if cause is not None)


def moved_columns(errors: StageErrors) -> NamedCause | None:
    """Return the cause if all wrong columns hold the values of others."""
    numbers = torch.arange(errors.actual.shape[1], device=errors.actual.device)
    by_column = (errors.actual.T, errors.expected.T, errors.tolerance.T)
    sources = _sources(*by_column, errors.is_wrong.T)
    return None if sources is None else _cause(errors, "column", numbers, *sources)


def moved_rows(errors: StageErrors) -> NamedCause | None:
    """Return the cause if all wrong rows hold the values of others."""
    fewest = FEWEST if errors.noun == "elements" else 1  # others are exact
    table = (errors.actual, errors.expected, errors.tolerance, errors.is_wrong)
    sources = _sources(*table, fewest=fewest)
    return None if sources is None else _cause(errors, "row", errors.numbers, *sources)


def _sources(
    actual: Tensor, expected: Tensor, tolerance: Tensor, is_wrong: Tensor, fewest: int = FEWEST
) -> tuple[Tensor, Tensor, float] | None:
    """Return wrong rows, the row that each holds, and what is left; None unless all hold one."""
    wrong = is_wrong.any(dim=1).nonzero().flatten()
    count, length = expected.shape
    if (
        length < fewest
        or count > MOST
        or len(wrong) < (1 if length >= ALONE else 2)
        or not bool(actual[wrong].isfinite().all())
    ):
        return None
    source = torch.cdist(actual[wrong], expected).argmin(dim=1)
    remaining = (actual[wrong] - expected[source]).abs()
    if not bool((remaining <= MARGIN * tolerance[source]).all()) or bool((source == wrong).any()):
        return None
    if bool((expected[source] == 0).all()):  # zeros are not a row's own
        return None
    residual = float(remaining.norm() / (actual - expected)[wrong].norm().clamp(min=1e-38))
    return (wrong, source, residual) if residual <= MAX_RESIDUAL else None


def _cause(
    errors: StageErrors, axis: str, numbers: Tensor, wrong: Tensor, source: Tensor, residual: float
) -> NamedCause:
    text = moved_text(axis, numbers[wrong].tolist(), numbers[source].tolist())
    text = text if errors.noun == "elements" else text.replace("the values", f"the {errors.noun}")
    return NamedCause(name=NAME, cause=f"{errors.place} {text}", residual=residual)


def moved_text(axis: str, places: list[int], sources: list[int]) -> str:
    """Return which places hold the values of which others, in words."""
    if len(places) == 1:
        return f"{axis} {places[0]} holds the values of {axis} {sources[0]}"
    steps = {place - source for place, source in zip(places, sources, strict=True)}
    if len(steps) == 1:
        (step,) = steps
        side = "before" if step > 0 else "after"
        gap = "" if abs(step) == 1 else f"{abs(step)} "
        return f"each wrong {axis} holds the values of the {axis} {gap}{side} it"
    if len(steps) == 2 and max(steps) - min(steps) == len(places) and sum(steps) != 0:
        step = min(steps, key=abs)
        side = "before" if step > 0 else "after"
        gap = "" if abs(step) == 1 else f"{abs(step)} "
        return f"each wrong {axis} holds the values of the {axis} {gap}{side} it, in a circle"
    if len(steps) == 2 and sum(steps) == 0:
        return f"{axis}s that are {max(steps)} apart are swapped"
    if len({place + source for place, source in zip(places, sources, strict=True)}) == 1:
        return f"the wrong {axis}s are in reverse order"
    if len(set(sources)) == 1:
        return f"all wrong {axis}s hold the values of {axis} {sources[0]}"
    pairs = list(zip(places, sources, strict=True))[:3]
    examples = ", ".join(f"{axis} {place} those of {source}" for place, source in pairs)
    return f"the wrong {axis}s hold the values of other {axis}s: {examples}"
